package control

import (
	"fmt"
	"regexp"

	"go.temporal.io/sdk/worker"
)

// What the server takes as a deployment's name and as a build's id, and a little
// less: both are typed and printed.
var (
	deploymentForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)
	buildForm      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$`)
)

// unversioned stands for workers without a version in what people type and read.
const unversioned = "unversioned"

// CheckVersion says what is wrong with Deployment and BuildID, if anything is.
func (o Options) CheckVersion() error {
	_, err := o.version()
	return err
}

// version is what the server is told of this worker's version; zero if it has none.
func (o Options) version() (worker.DeploymentOptions, error) {
	switch {
	case o.Deployment == "" && o.BuildID == "":
		return worker.DeploymentOptions{}, nil
	case o.Deployment == "":
		return worker.DeploymentOptions{}, fmt.Errorf("build %s of which deployment? give --deployment, such as --deployment almanac", o.BuildID)
	case !deploymentForm.MatchString(o.Deployment):
		return worker.DeploymentOptions{}, fmt.Errorf("deployment %q: a name has letters, digits, - and _ only, such as almanac", o.Deployment)
	case o.BuildID == "":
		return worker.DeploymentOptions{}, fmt.Errorf("this program does not know its version, as one that go run builds: give --build-id, such as --build-id 1.4.0")
	case o.BuildID == unversioned:
		return worker.DeploymentOptions{}, fmt.Errorf("build id %q: so the starter calls workers that have none; take another, such as 1.4.0", o.BuildID)
	case !buildForm.MatchString(o.BuildID):
		return worker.DeploymentOptions{}, fmt.Errorf("build id %q: it has letters, digits and . + - _ only, such as 1.4.0", o.BuildID)
	}
	return worker.DeploymentOptions{
		UseVersioning: true,
		Version:       worker.WorkerDeploymentVersion{DeploymentName: o.Deployment, BuildID: o.BuildID},
	}, nil
}
