// Command gitops tells what GitOps tools make of objects, by the code that these tools are built on.
//
//	gitops SUCCESS FAILURE < objects.json
//
// SUCCESS and FAILURE are the conditions of a resource template of Argo Workflows; the input is a JSON array of objects,
// as the API server sends them. The output is a JSON array with one answer for each.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	flux "github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/tidwall/gjson"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type answer struct {
	// Kstatus is the word of kubernetes-sigs/cli-utils: kpt, Config Sync.
	Kstatus string `json:"kstatus"`
	// Flux is that of its fork, on which Flux and `helm --wait` are built.
	Flux string `json:"flux"`
	// Workflow is Succeeded, Failed or Waiting.
	Workflow string `json:"workflow"`
}

// fields lets a label selector look into an object, each label being the path of a field.
type fields []byte

func (f fields) Has(path string) bool              { return gjson.GetBytes(f, path).Exists() }
func (f fields) Get(path string) string            { return gjson.GetBytes(f, path).String() }
func (f fields) Lookup(path string) (string, bool) { return f.Get(path), f.Has(path) }

// workflow decides as the executor of Argo Workflows does: one failed requirement is enough, all must succeed.
func workflow(object []byte, success, failure labels.Requirements) string {
	for _, requirement := range failure {
		if requirement.Matches(fields(object)) {
			return "Failed"
		}
	}
	for _, requirement := range success {
		if !requirement.Matches(fields(object)) {
			return "Waiting"
		}
	}
	return "Succeeded"
}

func told(object []byte, success, failure labels.Requirements) (answer, error) {
	typed := &unstructured.Unstructured{}
	if err := typed.UnmarshalJSON(object); err != nil {
		return answer{}, err
	}
	plain, err := kstatus.Compute(typed)
	if err != nil {
		return answer{}, err
	}
	forked, err := flux.Compute(typed)
	if err != nil {
		return answer{}, err
	}
	return answer{plain.Status.String(), forked.Status.String(), workflow(object, success, failure)}, nil
}

func run(conditions []string, input io.Reader, output io.Writer) error {
	if len(conditions) != 2 {
		return fmt.Errorf("usage: gitops SUCCESS FAILURE < objects.json")
	}
	var requirements [2]labels.Requirements
	for at, condition := range conditions {
		selector, err := labels.Parse(condition)
		if err != nil {
			return err
		}
		requirements[at], _ = selector.Requirements()
	}
	var objects []json.RawMessage
	if err := json.NewDecoder(input).Decode(&objects); err != nil {
		return err
	}
	answers := make([]answer, 0, len(objects))
	for _, object := range objects {
		one, err := told(object, requirements[0], requirements[1])
		if err != nil {
			return err
		}
		answers = append(answers, one)
	}
	return json.NewEncoder(output).Encode(answers)
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
