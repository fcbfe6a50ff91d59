project_id        = "acme-data"
project_number    = "123456789012"
functions_archive = "functions.zip"

builds = {
  "0f3a9c1d2b4e" = {
    image = "us-central1-docker.pkg.dev/acme-data/penstock-prod-images/worker@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef"
  }
  "5c6d7e8f9011" = {
    image = "us-central1-docker.pkg.dev/acme-data/penstock-prod-images/worker@sha256:5c6d7e8f90112233445566778899aabbccddeeff0f3a9c1d2b4e5f60718293a4"
  }
}

rotator_image = "us-central1-docker.pkg.dev/acme-data/penstock-prod-images/rotator@sha256:5f60718293a4b5c6d7e8f90112233445566778899aabbccddeeff0f3a9c1d2b4"
