package collect

import (
	"encoding/json"
	"io"
	"os"
	"strings"
)

// hardware is what the firmware says.
type hardware struct {
	vendor, product, uuid, bios, board, chassis string
}

// azureChassis is the asset tag of every machine of Azure.
const azureChassis = "7783-7084-3265-9085-8269-3286-77"

// values are what is known of the instance; what is not known is not there. cloudInit
// is the file in which cloud-init keeps what the cloud told it.
func (h hardware) values(tags map[string]string, cloudInit string) map[string]any {
	v := map[string]any{}
	set := func(name, value string) {
		if value != "" && v[name] == nil {
			v[name] = value
		}
	}
	set("vendor", h.vendor)
	set("product", h.product)
	set("uuid", strings.ToLower(h.uuid))
	set("bios", h.bios)
	switch {
	case h.vendor == "Amazon EC2" || strings.Contains(h.bios, "amazon"):
		set("cloud", "aws")
		if h.vendor == "Amazon EC2" { // of the older ones the product is only "HVM domU"
			set("type", h.product)
		}
		if strings.HasPrefix(h.board, "i-") {
			set("id", h.board)
		}
	case h.vendor == "Google":
		set("cloud", "gcp")
	case h.chassis == azureChassis:
		set("cloud", "azure")
	}
	if c := readCloudInit(cloudInit); c.Cloud != "" && c.Cloud != "none" && c.Cloud != "unknown" {
		set("cloud", c.Cloud)
		set("region", c.Region)
		set("zone", c.Zone)
		set("id", c.ID)
	}
	for _, name := range []string{"region", "aws:region"} {
		set("region", tags[name])
	}
	return v
}

type cloudInitData struct {
	Cloud  string `json:"cloud_name"`
	Region string `json:"region"`
	Zone   string `json:"availability_zone"`
	ID     string `json:"instance_id"`
}

func readCloudInit(file string) cloudInitData {
	var data struct {
		V1 cloudInitData `json:"v1"`
	}
	f, err := os.Open(file)
	if err != nil {
		return data.V1
	}
	defer f.Close()
	// A file that is damaged tells nothing.
	if json.NewDecoder(io.LimitReader(f, 4<<20)).Decode(&data) != nil {
		return cloudInitData{}
	}
	return data.V1
}
