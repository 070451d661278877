package main

import "github.com/almanac-run/almanac/internal/rehearse/awscloud"

// simulatedCloud makes the cloud in which rehearsals and tests run.
var simulatedCloud = awscloud.New
