// What containerd's own filter language says: reads one JSON document, writes one.
//   [{"filters": ["name==a"], "info": {"name": "a", "parent": "", "kind": "active", "labels": {}}}, …]
// Each case becomes "true", "false" or "error".
package main

import (
	"encoding/json"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/pkg/filters"
)

type info struct {
	Name, Parent, Kind string
	Labels             map[string]string
}

type question struct {
	Filters []string
	Info    info
}

// As adaptSnapshot of core/snapshots/storage has the fields.
func (i info) Field(path []string) (string, bool) {
	switch path[0] {
	case "kind":
		return i.Kind, true
	case "name":
		return i.Name, true
	case "parent":
		return i.Parent, true
	case "labels":
		value, found := i.Labels[strings.Join(path[1:], ".")]
		return value, found
	}
	return "", false
}

func main() {
	var questions []question
	if err := json.NewDecoder(os.Stdin).Decode(&questions); err != nil {
		panic(err)
	}
	answers := make([]string, 0, len(questions))
	for _, q := range questions {
		filter, err := filters.ParseAll(q.Filters...)
		switch {
		case err != nil:
			answers = append(answers, "error")
		case filter.Match(q.Info):
			answers = append(answers, "true")
		default:
			answers = append(answers, "false")
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		panic(err)
	}
}
