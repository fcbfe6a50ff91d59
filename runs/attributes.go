package runs

import (
	enumspb "go.temporal.io/api/enums/v1"
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
