"""Messages made from `protos` by scripts/make-protos. Only the gRPC rooms see them."""
