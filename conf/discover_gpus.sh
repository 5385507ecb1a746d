#!/bin/sh
# Tells Spark which GPUs there are, as {"name": "gpu", "addresses": ["0", "1"]}: spark.worker.resource.gpu.discoveryScript of
# standalone workers, spark.executor.resource.gpu.discoveryScript on YARN and Kubernetes.
#
# Where CUDA_VISIBLE_DEVICES is set, addresses count its entries from 0, since that is how they are read again (by this project and
# by pyspark's TorchDistributor); the entries may be numbers, UUIDs or one MIG instance. Else they are nvidia-smi's numbers.
# A card that is divided by MIG is one address, and torch uses one instance of it: give each worker or container one instance.
#
# Without a GPU the list is empty, and a line on stderr says why. Spark does not start a worker or executor that has fewer addresses
# than its amount: on machines without GPUs leave the amount out, or set it to 0.

print_addresses() { # one on each line of stdin
    awk '{ list = list (NR > 1 ? ", " : "") "\"" $1 "\"" } END { print "{\"name\": \"gpu\", \"addresses\": [" list "]}" }'
}

say() {
    echo "discover_gpus.sh: $1" >&2
}

if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    # As CUDA does: what comes behind an entry of -1 is hidden, too.
    addresses=$(printf '%s' "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | awk '/^ *-/ { exit } NF { print n++ + 0 }')
    [ -n "$addresses" ] || say "no GPU: CUDA_VISIBLE_DEVICES='$CUDA_VISIBLE_DEVICES' hides all"
elif ! command -v nvidia-smi >/dev/null 2>&1; then
    say "no GPU: nvidia-smi is not on PATH (is NVIDIA's driver installed?)"
elif ! addresses=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>&1); then
    say "no GPU: nvidia-smi failed: $(printf '%s' "$addresses" | head -n 1)"
    addresses=
elif printf '%s' "$addresses" | grep -qv '^ *[0-9][0-9]* *$'; then
    say "no GPU: nvidia-smi says: $(printf '%s' "$addresses" | head -n 1)"
    addresses=
fi
if [ -n "$addresses" ]; then printf '%s\n' "$addresses"; fi | print_addresses
