#!/bin/sh
# Writes golden.txtpb anew: the wire schema as it is now becomes what wire_schema_test defends. Run it
# after additions, so that they are defended too; after other changes only if no release has that part.
set -eu
cd "$(dirname "$0")/../.."
include=$(dirname "$(command -v protoc)")/../include  # Where protoc's own descriptor.proto is.
set_file=$(mktemp)
trap 'rm -f "$set_file" "$set_file.txt"' EXIT
# shellcheck disable=SC2046  # Names of schema files have no spaces.
protoc -I proto --descriptor_set_out="$set_file" $(cd proto && find . -name '*.proto' | sed 's|^\./||' | LC_ALL=C sort)
protoc -I "$include" --decode=google.protobuf.FileDescriptorSet google/protobuf/descriptor.proto \
  < "$set_file" > "$set_file.txt"
mv "$set_file.txt" tests/proto/golden.txtpb
chmod 644 tests/proto/golden.txtpb
git --no-pager diff --stat -- tests/proto/golden.txtpb
