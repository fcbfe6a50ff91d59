// Package penstock is what the Cloud Functions buildpack compiles: the entry points StorageTrigger, PubSubTrigger,
// EventTrigger and JobStatus of the package functions.
package penstock

import (
	_ "github.com/GoogleCloudPlatform/functions-framework-go/functions" // the buildpack looks for it in the root package

	_ "github.com/penstock/penstock/functions" // registers the entry points
)
