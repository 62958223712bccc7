//! The pages and the bounds, over real sockets.

use super::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tidemark_runtime::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(30);

struct Server {
    address: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

async fn start(ops: Ops, limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let shutdown = Shutdown::new();
    let task = tokio::spawn(serve_with(listener, ops, shutdown.clone(), limits));
    Server {
        address,
        shutdown,
        task,
    }
}

fn ready_ops() -> Ops {
    Ops::new(Metrics::new(), Arc::new(|| Ok(())), || Value::Null)
}

/// One request on a connection of its own; the whole answer as text.
async fn get(address: SocketAddr, path: &str) -> String {
    raw(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    )
    .await
}

async fn raw(address: SocketAddr, request: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("the server listens");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        // A reset after the answer is fine: what was read before it counts.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("text")
    };
    tokio::time::timeout(LONG, exchange).await.expect("an answer in time")
}

#[tokio::test]
async fn the_pages_show_what_they_are_given() {
    let metrics = Metrics::new();
    metrics.counter("tidemark_restarts", "Restarts.", &[]).plain().add(3);
    let ops = Ops::new(metrics, Arc::new(|| Ok(())), || json!({"node": 7}));
    let server = start(ops, Limits::default()).await;

    let scraped = get(server.address, "/metrics").await;
    assert!(scraped.starts_with("HTTP/1.1 200"), "{scraped}");
    assert!(
        scraped.contains("content-type: application/openmetrics-text"),
        "{scraped}"
    );
    assert!(
        scraped.contains("tidemark_restarts_total{} 3") && scraped.contains("# EOF"),
        "{scraped}"
    );

    assert!(get(server.address, "/healthz").await.ends_with("\r\n\r\nok\n"));
    assert!(get(server.address, "/readyz").await.ends_with("\r\n\r\nready\n"));

    let status = get(server.address, "/status").await;
    let body = status.split("\r\n\r\n").nth(1).expect("a body");
    assert_eq!(serde_json::from_str::<Value>(body).expect("JSON"), json!({"node": 7}));

    let missing = get(server.address, "/nothing").await;
    assert!(
        missing.starts_with("HTTP/1.1 404") && missing.contains("/readyz"),
        "{missing}"
    );
    assert!(
        raw(
            server.address,
            "POST /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .await
        .contains(" 405 ")
    );
}

#[tokio::test]
async fn an_unready_node_says_why_and_is_still_healthy() {
    let ops = Ops::new(
        Metrics::new(),
        Arc::new(|| Err("tablet-7 has no leader".to_owned())),
        || Value::Null,
    );
    let server = start(ops, Limits::default()).await;
    let answer = get(server.address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("not ready: tablet-7 has no leader\n"), "{answer}");
    assert!(get(server.address, "/healthz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_stuck_part_fails_its_own_page_only() {
    let (release, stuck) = std::sync::mpsc::sync_channel::<()>(0);
    let stuck = std::sync::Mutex::new(stuck);
    let readiness = move || {
        stuck
            .lock()
            .expect("one user")
            .recv()
            .map_err(|_| "released".to_owned())
    };
    let ops = Ops::new(Metrics::new(), Arc::new(readiness), || Value::Null);
    let limits = Limits {
        answer_max: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = start(ops, limits).await;
    let answer = get(server.address, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("no answer within 50ms"),
        "{answer}"
    );
    assert!(get(server.address, "/healthz").await.starts_with("HTTP/1.1 200"));
    drop(release);
}

#[tokio::test]
async fn a_panicking_part_fails_its_own_page_only() {
    let ops = Ops::new(Metrics::new(), Arc::new(|| Ok(())), || panic!("half-changed"));
    let server = start(
        ops,
        Limits {
            answer_max: LONG,
            ..Limits::default()
        },
    )
    .await;
    let answer = get(server.address, "/status").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("the answer failed"),
        "{answer}"
    );
    assert!(get(server.address, "/readyz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_silent_client_loses_its_connection() {
    let limits = Limits {
        header_wait_max: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = start(ready_ops(), limits).await;
    // Neither an unfinished header nor an idle kept-alive connection lives on.
    for sent in [
        "",
        "GET /healthz HTTP/1.1\r\nhost",
        "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let answer = raw(server.address, sent).await;
        assert!(
            answer.is_empty() || answer.contains("408") || answer.ends_with("ok\n"),
            "{sent:?}: {answer}"
        );
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_their_turn() {
    let limits = Limits {
        connections_max: 1,
        ..Limits::default()
    };
    let server = start(ready_ops(), limits).await;
    let mut first = TcpStream::connect(server.address).await.expect("the server listens");
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("sent");
    // The answer proves that the first connection has its place.
    let mut head = [0u8; 12];
    first.read_exact(&mut head).await.expect("answered");
    let second = tokio::spawn(get(server.address, "/healthz"));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished(), "served although the only place is taken");
    drop(first);
    assert!(second.await.expect("no panic").starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_oversized_header_is_refused() {
    let server = start(ready_ops(), Limits::default()).await;
    let large = format!(
        "GET /healthz HTTP/1.1\r\nhost: x\r\nlarge: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    let answer = raw(server.address, &large).await;
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
    let many: String = (0..100).map(|n| format!("h{n}: x\r\n")).collect();
    let answer = raw(
        server.address,
        &format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
    )
    .await;
    assert!(answer.contains(" 431 "), "{answer}");
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_ends() {
    let (entered, gate) = (Arc::new(Notify::new()), Arc::new(parking()));
    let status = {
        let (entered, gate) = (entered.clone(), gate.clone());
        move || {
            entered.notify_one();
            gate.wait();
            json!("late")
        }
    };
    let server = start(Ops::new(Metrics::new(), Arc::new(|| Ok(())), status), Limits::default()).await;
    let idle = TcpStream::connect(server.address).await.expect("the server listens");
    let under_way = tokio::spawn(get(server.address, "/status"));
    tokio::time::timeout(LONG, entered.notified())
        .await
        .expect("the request arrives");
    server.shutdown.trigger();
    gate.wait();
    assert!(under_way.await.expect("no panic").contains("late"));
    tokio::time::timeout(LONG, server.task)
        .await
        .expect("ends in time")
        .expect("no panic");
    drop(idle);
}

fn parking() -> std::sync::Barrier {
    std::sync::Barrier::new(2)
}
