package runs

import (
	"context"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/temporal"
)

// Search attributes of our workflows. The worker upserts them where the namespace
// has them; nothing but listing by them depends on it. Step belongs to a job's
// workflow, the rest to a run's.
var (
	AttrPipeline = temporal.NewSearchAttributeKeyKeyword("PenstockPipeline")
	AttrKey      = temporal.NewSearchAttributeKeyKeyword("PenstockKey")
	AttrOutcome  = temporal.NewSearchAttributeKeyKeyword("PenstockOutcome")
	AttrConfig   = temporal.NewSearchAttributeKeyKeyword("PenstockConfigVersion")
	AttrStep     = temporal.NewSearchAttributeKeyKeyword("PenstockStep")
)

// SearchAttributeType is the type of every search attribute of ours.
const SearchAttributeType = enumspb.INDEXED_VALUE_TYPE_KEYWORD

// SearchAttributes names every search attribute.
func SearchAttributes() []string {
	return []string{AttrPipeline.GetName(), AttrKey.GetName(), AttrOutcome.GetName(), AttrConfig.GetName(), AttrStep.GetName()}
}

// MissingSearchAttributes names the search attributes of ours that the namespace
// does not have, or has with another type.
func MissingSearchAttributes(ctx context.Context, c operatorservice.OperatorServiceClient, namespace string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := c.ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return nil, fmt.Errorf("list the search attributes of namespace %q: %w", namespace, err)
	}
	var missing []string
	for _, name := range SearchAttributes() {
		if list.GetCustomAttributes()[name] != SearchAttributeType {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

// Memo keys of a run. The memo is written by whoever starts the run and can be
// read without a worker.
const (
	MemoIdentity = "identity" // the event identity that started it
	MemoKey      = "key"
	MemoPipeline = "pipeline"
	MemoConfig   = "config" // pipeline.Version
	MemoPurpose  = "purpose"
	MemoOwner    = "owner"
)
