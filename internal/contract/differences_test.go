package contract

// difference is a claim that a back end is known not to keep.
type difference struct {
	backend, scenario, claim string
	why                      string // what it does in place, and how that is known
}

func known(backend, scenario, claim string) *difference {
	for i, d := range differences {
		if d.backend == backend && d.scenario == scenario && d.claim == claim {
			return &differences[i]
		}
	}
	return nil
}

// Reasons that several differences have. What moto does is what it did here, at
// the release that motoVersion names; where a file of its source is named, it was
// read there.
const (
	atOnce    = "moto's EC2 has no states on the way: everything is done at once"
	noToken   = "moto takes ClientToken and does not look at it (ec2/models)"
	noFilter  = "moto answers 500 to a filter that it does not implement"
	noCall    = "moto has not implemented the operation and answers 500"
	unchecked = "moto does not check this"
	noSim     = "simcloud does not simulate the operation, and says so (NotSimulated)"
)

var differences = []difference{
	// What our simulated cloud does not do.
	{"simcloud", "s3 multipart upload", "a large object is uploaded in parts", noSim + ": an upload of more than 8 MiB cannot be rehearsed"},
	{"simcloud", "s3 regions", "it is read from elsewhere", "simcloud answers PermanentRedirect, which our client follows, so that its callers never see it"},
	{"simcloud", "securityhub findings", "Security Hub is enabled", noSim},
	{"simcloud", "sns to sqs", "sns Subscribe", noSim + ": messages are in its ledger, and delivered to nobody"},

	// What moto does not do as AWS does.
	{"moto", "autoscaling", "its instances are refreshed", noCall},
	{"moto", "autoscaling", "the name is taken", "moto makes the group anew, and leaves the instances of the old one"},
	{"moto", "cloudformation stacks", "it begins in progress", "moto has made the stack when it answers"},
	{"moto", "cloudformation stacks", "the same token is answered again", "moto looks at the name only and answers AlreadyExistsException"},
	{"moto", "cloudformation stacks", "and carry the token", "moto keeps no token in events"},
	{"moto", "cloudformation stacks", "an update that changes nothing is refused", unchecked},
	{"moto", "ec2 image copies", "the same token is the same copy", noToken},
	{"moto", "ec2 image copies", "it has its tags from the beginning", "moto's CopyImage does not read TagSpecifications (ec2/responses/amis.py)"},
	{"moto", "ec2 image copies", "it says where it is from", "moto does not keep it"},
	{"moto", "ec2 images", "the name is taken", "moto takes a name twice: what makes CreateImage safe is not there"},
	{"moto", "ec2 images", "snapshots are tagged in the call that makes the image", "moto answers 500 (NotImplementedError in create_image)"},
	{"moto", "ec2 images", "it is looked for by its snapshot", noFilter},
	{"moto", "ec2 images", "it can be deprecated", noCall},
	{"moto", "ec2 instance lifecycle", "what is stopped cannot be rebooted", unchecked},
	{"moto", "ec2 instance lifecycle", "and stays so", "moto answers stopping, whatever the state was"},
	{"moto", "ec2 instance lifecycle", "it cannot be started", "moto starts terminated instances"},
	{"moto", "ec2 instance lifecycle", "nor is one with an id that cannot be", "moto answers NotFound"},
	{"moto", "ec2 instance lifecycle", "a filter that there is not is refused", noFilter},
	{"moto", "ec2 launch templates", "the same token is answered again", noToken + ": the name is taken"},
	{"moto", "ec2 launch templates", "it has what its source has", "moto does not read SourceVersion"},
	{"moto", "ec2 launch templates", "the same token is the same version", noToken},
	{"moto", "ec2 launch templates", "a launch takes what the version says", "it follows from SourceVersion"},
	{"moto", "ec2 launch templates", "versions are deleted", noCall},
	{"moto", "ec2 launch templates", "nor by id", "moto answers an empty list"},
	{"moto", "ec2 launch tokens", "the same token is the same instance", noToken},
	{"moto", "ec2 launch tokens", "and there is one only", noToken},
	{"moto", "ec2 launch tokens", "eight calls at once are one instance", noToken + ": they are eight"},
	{"moto", "ec2 launch tokens", "the same token with other parameters is refused", noToken},
	{"moto", "ec2 launch tokens", "an instance can be looked up by its token", noFilter},
	{"moto", "ec2 launch tokens", "the token of a terminated instance is used up", noToken},
	{"moto", "ec2 launch tokens", "an image that there is not is refused", unchecked},
	{"moto", "ec2 launch tokens", "an image with an id that cannot be is refused", unchecked},
	{"moto", "ec2 snapshots", "a snapshot begins as pending", atOnce},
	{"moto", "ec2 tags", "what there is not is not tagged", unchecked},
	{"moto", "ec2 tags", "nor is anything else of that call", unchecked},
	{"moto", "ec2 tags", "aws: is AWS's own", unchecked},
	{"moto", "lambda", "one that there is not is not called", "without Docker moto answers for any name (awslambda_simple)"},
	{"moto", "lambda", "what is no JSON is refused", unchecked},
	{"moto", "s3 objects", "a body that is empty is there", "not moto: our client leaves an empty streaming body out of the answer"},
	{"moto", "secretsmanager", "and is what is read", "moto reads the version that was put last, whatever AWSCURRENT says"},
	{"moto", "secretsmanager", "and keeps its name", "moto answers ResourceExistsException"},
	{"moto", "securityhub findings", "and is one, the newer", "moto does not filter by id"},
	{"moto", "securityhub findings", "one of another account fails, the others do not", unchecked},
	{"moto", "securityhub findings", "none is refused", unchecked},
	{"moto", "sqs", "the same deduplication id is the same message", "moto answers a new id; it does deliver the message once"},
	{"moto", "ssm parameters", "which stands in the answer", "moto does not answer Selector"},
	{"moto", "ssm parameters", "a secret is not read without decryption", "moto answers the plain text behind kms:…: (ssm/models.py)"},
	{"moto", "ssm parameters", "a pattern is held against", unchecked},
	{"moto", "ssm parameters", "4097 characters are too many", unchecked},
	{"moto", "sts", "less than a quarter of an hour is refused", unchecked},
	{"moto", "sts", "what is no role is refused", "moto lets anyone be anyone: no evidence of who may do what"},

	// What it does not do of that on which actions rely. What is doubled because a
	// token or a name does not count is found by the tag, where the action looks.
	{"moto", "action aws.autoscaling.update_launch_template", "reply 1, of CreateLaunchTemplateVersion, lost: it is one", noToken + "; an attempt after it finds the version by its description"},
	{"moto", "action aws.autoscaling.update_launch_template", "taken back, all is as before", "DeleteLaunchTemplateVersions: " + noCall},
	{"moto", "action aws.autoscaling.update_launch_template", "taken back twice, too", "the same"},
	{"moto", "action aws.call", "done again under its token, it is one", noToken + ": the name is taken"},
	{"moto", "action aws.call", "reply 1, of CreateLaunchTemplate, lost: it is one", noToken + ": the name is taken"},
	{"moto", "action aws.cloudformation.deploy (over)", "it says that it cannot be taken back", "moto keeps no token in events, by which the action knows that the update is its own"},
	{"moto", "action aws.ec2.copy_image", "done again under its token, it is one", noToken + ", nor is a name taken"},
	{"moto", "action aws.ec2.copy_image", "reply 1, of CopyImage, lost: it is one", noToken},
	{"moto", "action aws.ec2.copy_image", "reply 1, of CopyImage, lost: taken back, nothing is left", noToken + ", and moto's CopyImage does not read TagSpecifications: the second copy cannot be found"},
	{"moto", "action aws.ec2.copy_image", "reply 1, of CopyImage, never comes: taken back, nothing is left", "moto's CopyImage does not read TagSpecifications: the copies cannot be found"},
	{"moto", "action aws.ec2.create_image", "done again under its token, it is one", "moto takes a name twice"},
	{"moto", "action aws.ec2.create_image", "reply 1, of CreateImage, lost: it is one", "moto takes a name twice"},
	{"moto", "action aws.ec2.create_image", "reply 1, of CreateImage, lost: taken back, nothing is left", "the action takes back the one image that it has made; by moto there are two"},
	{"moto", "action aws.ec2.deprecate_image", "it is done", "EnableImageDeprecation: " + noCall},
	{"moto", "action aws.ec2.run_instance", "done again under its token, it is one", noToken},
	{"moto", "action aws.ec2.run_instance", "reply 1, of RunInstances, lost: it is one", noToken},
	{"moto", "action aws.ec2.run_instance", "reply 1, of RunInstances, lost: taken back, nothing is left", "the action takes back what it knows to have made; without an answer it looks by the tag, and finds all (the claim about a reply that never comes)"},
	{"moto", "action aws.ec2.run_instances", "done again under its token, it is one", noToken},
	{"moto", "action aws.ec2.run_instances", "reply 1, of RunInstances, lost: it is one", noToken},
	{"moto", "action aws.ec2.run_instances", "reply 1, of RunInstances, lost: taken back, nothing is left", "the same as of run_instance"},
	{"moto", "action aws.secretsmanager.put (over)", "taken back, all is as before", "moto reads the version that was put last, whatever AWSCURRENT says"},
	{"moto", "action aws.secretsmanager.put (over)", "taken back twice, too", "the same"},
}
