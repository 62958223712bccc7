//! etcd: no time-series store, but what people take when they need consensus and nothing else. A tick is one key, its
//! values packed in one value, a batch one transaction: fewer and larger records than it would get from a row of columns.
//!
//! Three messages of its API are written down here by hand; its own definitions would bring a generator for them.

use super::{About, Peer, Site};
use crate::load::{Batch, Sender};
use crate::process::{Process, disk_bytes, free_port};
use crate::web::answers;
use anyhow::{Context, Result, anyhow, ensure};
use http::uri::PathAndQuery;
use std::path::PathBuf;
use std::time::Duration;
use tidemark_bench::fleet::{self, Fleet};
use tokio::runtime::Handle;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

/// `etcdserverpb.PutRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.RequestOp`, of which only a put is used.
#[derive(Clone, PartialEq, prost::Message)]
struct RequestOp {
    #[prost(message, optional, tag = "2")]
    put: Option<Put>,
}

/// `etcdserverpb.TxnRequest` without conditions: all of `success` is done.
#[derive(Clone, PartialEq, prost::Message)]
struct Txn {
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

/// `etcdserverpb.TxnResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct TxnAnswer {
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

/// `etcdserverpb.RangeRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct Range {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(bool, tag = "9")]
    count_only: bool,
}

/// `etcdserverpb.RangeResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct RangeAnswer {
    #[prost(int64, tag = "4")]
    count: i64,
}

/// Any message of which nothing is asked or wanted.
#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

pub(super) struct Etcd {
    process: Process,
    host: String,
    data: PathBuf,
    version: String,
    fleet: Fleet,
    runtime: Handle,
}

pub(super) fn start(site: &Site) -> Result<Etcd> {
    let package = site.shelf.debian("etcd-server")?;
    let data = site.dir.join("data");
    let host = format!("127.0.0.1:{}", free_port()?);
    let peers = format!("http://127.0.0.1:{}", free_port()?);
    let arguments = [
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls=http://{host}"),
        format!("--advertise-client-urls=http://{host}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        "--quota-backend-bytes=8589934592".to_owned(),
        format!("--max-txn-ops={}", site.batch.max(128)),
    ];
    let binary = package.dir.join("usr/bin/etcd");
    let mut process = Process::start(&binary, &arguments, &[], &site.dir.join("log"))?;
    process.wait_ready(Duration::from_secs(60), || answers(&host, "/health"))?;
    Ok(Etcd {
        process,
        host,
        data,
        version: package.version,
        fleet: site.fleet.clone(),
        runtime: site.runtime.clone(),
    })
}

impl Etcd {
    fn channel(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.host))?.timeout(Duration::from_secs(120));
        Ok(self.runtime.block_on(endpoint.connect())?)
    }
}

async fn call<Q, A>(channel: Channel, path: &'static str, request: Q) -> Result<A>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| anyhow!("etcd is gone: {error}"))?;
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let answer = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec);
    let answer = answer.await.with_context(|| path)?;
    Ok(answer.into_inner())
}

impl Peer for Etcd {
    fn about(&self) -> About {
        About {
            version: self.version.clone(),
            copies: 1,
            durability: "fsync before the answer",
            how: "gRPC; a key a tick with its values packed, a transaction a batch; --max-txn-ops for that, \
                  --quota-backend-bytes=8 GiB; one member",
        }
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.process.pid()]
    }

    fn sender(&self) -> Result<Box<dyn Sender>> {
        Ok(Box::new(TxnSender {
            channel: self.channel()?,
            runtime: self.runtime.clone(),
        }))
    }

    /// Every key has one revision, so there is nothing to be compacted away; defragmenting gives unused pages back.
    fn settle(&mut self) -> Result<()> {
        let defragment = call::<Empty, Empty>(self.channel()?, "/etcdserverpb.Maintenance/Defragment", Empty {});
        self.runtime.block_on(defragment)?;
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64> {
        disk_bytes(&self.data)
    }

    fn log_bytes(&self) -> Result<u64> {
        disk_bytes(&self.data.join("member/wal"))
    }

    fn samples(&mut self) -> Result<Option<u64>> {
        let everything = Range {
            key: vec![0],
            range_end: vec![0],
            count_only: true,
        };
        let count = call::<Range, RangeAnswer>(self.channel()?, "/etcdserverpb.KV/Range", everything);
        let count = self.runtime.block_on(count)?.count;
        Ok(Some(count as u64 * self.fleet.metrics))
    }

    fn stop(self: Box<Self>) -> Result<()> {
        self.process.stop().context("etcd")
    }
}

struct TxnSender {
    channel: Channel,
    runtime: Handle,
}

impl Sender for TxnSender {
    fn send(&mut self, batch: &Batch) -> Result<()> {
        let puts = batch.iter().map(|(device, version, values)| {
            let put = Put {
                key: format!("{}/{version:016x}", fleet::row(device)).into_bytes(),
                value: values.iter().flat_map(|value| value.to_be_bytes()).collect(),
            };
            RequestOp { put: Some(put) }
        });
        let txn = Txn {
            success: puts.collect(),
        };
        let answer = call::<Txn, TxnAnswer>(self.channel.clone(), "/etcdserverpb.KV/Txn", txn);
        ensure!(
            self.runtime.block_on(answer)?.succeeded,
            "the transaction did not succeed"
        );
        Ok(())
    }
}
