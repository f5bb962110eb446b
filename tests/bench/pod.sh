#!/usr/bin/env bash
# The pod flow as a careful person writes it with kubectl: the yardstick of `make bench`.   usage: pod.sh MANIFEST PORT
set -euo pipefail
manifest=$1 port=$2
supervisor=
cleanup() {
  status=$?
  if [[ -n $supervisor ]]; then
    kill "$supervisor" 2>/dev/null || true
    wait "$supervisor" 2>/dev/null || true
  fi
  kubectl delete --filename="$manifest" --ignore-not-found >/dev/null
  exit "$status"
}
trap cleanup EXIT
kubectl apply --filename="$manifest" >/dev/null
kubectl wait --for=condition=Ready pod/pythonapp --timeout=60s >/dev/null
kubectl get pod
(
  child=
  trap 'kill "$child" 2>/dev/null; wait "$child" 2>/dev/null; exit 0' TERM
  while true; do
    kubectl port-forward --address=127.0.0.1 pod/pythonapp "$port:5000" >/dev/null 2>&1 &
    child=$!
    wait "$child" || sleep 0.1
  done
) &
supervisor=$!
for ((attempt = 1; attempt <= 300; attempt++)); do
  if answer=$(curl --silent --fail --max-time 5 "http://127.0.0.1:$port/") && [[ $answer == *Hello* ]]; then
    exit 0
  fi
  sleep 0.1
done
echo "no answer" >&2
exit 1
