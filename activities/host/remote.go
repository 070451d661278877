package host

import "regexp"

// The inputs and outputs of the actions, for who serves them on nodes on which he is not.
type (
	CommandRunInput   = commandRunInput
	CommandRunOutput  = commandRunOutput
	FileWriteInput    = fileWriteInput
	FileWriteOutput   = fileWriteOutput
	FileRemoveInput   = fileRemoveInput
	FileRemoveOutput  = fileRemoveOutput
	ServiceInput      = serviceInput
	ServiceOutput     = serviceOutput
	NodeDescribeInput = nodeDescribeInput

	PatchScanInput     = patchScanInput
	PatchScanOutput    = patchScanOutput
	PatchInstallInput  = patchInstallInput
	PatchInstallOutput = patchInstallOutput
	PatchChange        = patchChange

	InventoryCollectInput  = inventoryCollectInput
	InventoryCollectOutput = inventoryCollectOutput
)

// CheckInventory refuses an input of host.inventory.collect that makes no sense, and
// fills in what it leaves out.
func CheckInventory(in *InventoryCollectInput) error { return in.check() }

// ServiceName is the form of the name of a service.
func ServiceName() *regexp.Regexp { return serviceName }

// ParseMode reads permissions such as "0644"; ok is false if nothing was said.
func ParseMode(text string) (mode uint32, ok bool, err error) { return parseMode(text) }

// LastLine is the last line of a text that is not blank, abridged: what a health check says.
func LastLine(text string) string { return lastLine(text) }

// What is kept of a command's output in the execution's history.
const (
	KeepStdout = keepStdout // bytes of standard output
	TailLines  = tailLines  // of the output, with an error
	TailBytes  = tailBytes
)
