// The API server of the tests: kube-apiserver of Kubernetes 1.36 with etcd in the same process.
//
//	apiserver --etcd-dir DIR --etcd-port PORT -- KUBE-APISERVER-FLAGS...
//
// etcd keeps its data in DIR, so that a second start finds what the first one stored, and listens on 127.0.0.1:PORT
// without encryption (tests compact it through its JSON gateway). --etcd-servers is added to the flags. SIGTERM ends both.
package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	dir := flag.String("etcd-dir", "", "where etcd keeps its data")
	port := flag.Int("etcd-port", 0, "the loopback port of etcd's clients")
	flag.Parse()
	if *dir == "" || *port == 0 {
		fmt.Fprintln(os.Stderr, "usage: apiserver --etcd-dir DIR --etcd-port PORT -- KUBE-APISERVER-FLAGS...")
		os.Exit(64)
	}
	etcd, err := startEtcd(*dir, *port)
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
	command := app.NewAPIServerCommand()
	command.SetArgs(append(flag.Args(), fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", *port)))
	code := cli.Run(command)
	etcd.Close()
	os.Exit(code)
}

func startEtcd(dir string, port int) (*embed.Etcd, error) {
	config := embed.NewConfig()
	config.Dir = dir
	config.LogLevel = "error"
	// Tests end the process, never the machine.
	config.UnsafeNoFsync = true
	clients := url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}
	peers := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{clients}, []url.URL{clients}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peers}, []url.URL{peers}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-etcd.Server.ReadyNotify():
		return etcd, nil
	case err := <-etcd.Err():
		return nil, err
	case <-time.After(30 * time.Second):
		etcd.Close()
		return nil, fmt.Errorf("not ready after 30 s")
	}
}
