#!/bin/bash
# Process 1 of a node's own namespaces: all that a node changes is changed in here, and goes when this process does.
set -eu
cd "$1"
# Until then there is no eth0 either.
until test -e configured; do sleep 0.02; done
. ./node.env

# Nothing that is mounted here is seen outside; containers see what is mounted later.
mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
# Places that containerd, CNI, kubelet and iptables write to whatever their configuration says.
for folder in /run /var/log; do mount -t tmpfs tmpfs "$folder"; done
# Some users' homes are in this one, with what is to be loaded.
mkdir -p lib/new lib/work
mount -t overlay overlay -o "lowerdir=/var/lib,upperdir=$PWD/lib/new,workdir=$PWD/lib/work" /var/lib
# kubelet sets these for the whole kernel: it finds them set.
for setting in kernel/keys/root_maxbytes kernel/keys/root_maxkeys kernel/panic kernel/panic_on_oops vm/overcommit_memory \
  vm/panic_on_oom; do
  mount --bind "sysctl/$setting" "/proc/sys/$setting"
done

# The other end of eth0 is the host's; the bridge joins it with the pods.
ip link set lo up
ip link add pods type bridge
ip link set eth0 master pods up
ip address add "$NODE_ADDRESS/$PREFIX" dev pods
ip link set pods up
echo 1 > /proc/sys/net/ipv4/ip_forward

containerd --config containerd.toml >> containerd.log 2>&1 &
# Tests restart it, as people do.
while sleep 0.1; do
  "$KUBELET" --config=kubelet.json --kubeconfig="$KUBELET_KUBECONFIG" --hostname-override="$NODE_NAME" \
    --node-ip="$NODE_ADDRESS" --root-dir="$PWD/kubelet" --cert-dir="$PWD/kubelet/pki" >> kubelet.log 2>&1 || true
done &
"$KUBE_PROXY" --config=kube-proxy.json >> kube-proxy.log 2>&1 &
# One that ends ends the node.
wait -n
