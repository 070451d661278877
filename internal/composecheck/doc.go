// Package composecheck checks docker-compose.yml against the compose
// specification, with the library that docker compose itself reads files with,
// and against what this project promises of it.
//
// It is a module of its own, so that the library's dependencies reach no user
// of Almanac. It has nothing but tests, and needs no Docker engine. Run them
// with -count=1: the go command does not see that files outside the module changed.
package composecheck
