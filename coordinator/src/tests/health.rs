use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::cluster::{Cluster, soon};
use crate::metrics::{Format, Metrics};
use crate::views::Views;
use crate::vitals::{Unready, Vitals};

/// One request as an old tool makes it; status line, headers and body.
pub(super) async fn get(address: &str, path: &str, accept: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("an answer over HTTP/1.1", socket.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn probes_find_a_coordinator_that_is_in_charge() {
    let cluster = Cluster::start().await;
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let (head, found) = get(&cluster.address, path, "*/*").await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert_eq!(found, body);
    }
    let (head, body) = get(&cluster.address, "/nowhere", "*/*").await;
    assert!(head.starts_with("http/1.1 404") && body.contains("/metrics"), "{head} {body}");
    cluster.stop().await;
}

#[tokio::test]
async fn the_health_service_serves_until_the_coordinator_stops() {
    let cluster = Cluster::start().await;
    let mut client = HealthClient::new(cluster.channel().await);
    for service in ["", "rustspeed.v1.Coordinator", "rustspeed.v1.WorkerLink"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let serving = async {
            loop {
                // The watch tells it after its first probe.
                let answer = client.check(request.clone()).await;
                if answer.is_ok_and(|a| a.get_ref().status == ServingStatus::Serving as i32) {
                    return;
                }
            }
        };
        soon(&format!("`{service}` serves"), serving).await;
    }
    let unknown = HealthCheckRequest { service: "no.such.Service".to_owned() };
    assert_eq!(client.check(unknown).await.unwrap_err().code(), Code::NotFound);
    let all = HealthCheckRequest { service: String::new() };
    let mut statuses = client.watch(all).await.unwrap().into_inner();
    assert_eq!(statuses.message().await.unwrap().unwrap().status, ServingStatus::Serving as i32);
    let last = async {
        loop {
            let next = statuses.message().await.unwrap().expect("the stop is told");
            if next.status == ServingStatus::NotServing as i32 {
                return;
            }
        }
    };
    let (_, ()) = tokio::join!(cluster.stop(), soon("the stop is told", last));
}

#[tokio::test]
async fn reflection_tells_tools_what_is_here() {
    let cluster = Cluster::start().await;
    let mut client = ServerReflectionClient::new(cluster.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["rustspeed.v1.Coordinator", "rustspeed.v1.WorkerLink", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let cluster = Cluster::start().await;
    let _a = cluster.join("a", 3).await;
    cluster.submit("runs", 2).await;
    cluster.submit("waits", 2).await;
    let (head, text) = get(&cluster.address, "/metrics", "*/*").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    for line in [
        "rustspeed_jobs{state=\"starting\"} 1",
        "rustspeed_jobs{state=\"queued\"} 1",
        "rustspeed_jobs{state=\"failed\"} 0",
        "rustspeed_workers{state=\"ready\"} 1",
        "rustspeed_slots{state=\"free\"} 1",
        "rustspeed_slots{state=\"taken\"} 2",
        "rustspeed_jobs_submitted_total 2",
        "rustspeed_attempts_started_total 1",
        "rustspeed_coordinator_incarnation 1",
        "rustspeed_rpcs_total{method=\"rustspeed.v1.Coordinator/Submit\"} 2",
        "rustspeed_rpcs_total{method=\"rustspeed.v1.WorkerLink/Control\"} 1",
        "rustspeed_rpc_failures_total{method=\"rustspeed.v1.Coordinator/Submit\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "`{line}` is not in:\n{text}");
    }
    let wrong = proto::v1::JobRequest { job_id: "nobody-123456".to_owned() };
    cluster.client().await.get_job(wrong).await.unwrap_err();
    let (head, text) = get(&cluster.address, "/metrics", "application/openmetrics-text").await;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let line = "rustspeed_rpc_failures_total{method=\"rustspeed.v1.Coordinator/GetJob\"} 1";
    assert!(text.lines().any(|found| found == line), "{text}");
    cluster.stop().await;
}

#[test]
fn a_loop_that_stands_still_is_not_ready_and_says_what_it_waits_for() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let vitals = Vitals::new(start);
    assert_eq!(vitals.check(after(2)), Ok(()));
    assert!(matches!(vitals.check(after(4)), Err(Unready::LoopIsSlow { .. })));
    vitals.writing(Some(after(4)));
    let why = vitals.check(after(6)).unwrap_err().to_string();
    assert!(why.contains("6.0 s ago") && why.contains("writing for 2.0 s"), "{why}");
    vitals.writing(None);
    vitals.turned_over(after(6));
    assert_eq!(vitals.check(after(7)), Ok(()));
    vitals.stopping();
    assert_eq!(vitals.check(after(7)), Err(Unready::Stopping));
}

/// Every metric as a row of the table in `docs/operations.md`.
fn table(text: &str) -> String {
    let mut rows = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap().1.trim_end_matches('.');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let samples = text.lines().filter(|sample| {
                sample.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            });
            let labels: Vec<&str> = samples
                .take(1)
                .flat_map(|sample| sample.split('{').nth(1).unwrap().split(','))
                .filter_map(|label| label.split('=').next())
                .collect();
            let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>();
            let labels = labels.join(", ");
            rows += &format!("| `{name}` | {kind} | {labels} | {help} |\n");
        }
    }
    rows
}

#[test]
fn the_manual_lists_every_metric_as_it_is() {
    let text = Metrics::new().expose(&Views::default(), Format::Prometheus).unwrap();
    let table = table(&text);
    assert!(table.lines().count() > 20, "{table}");
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let manual = fs_err::read_to_string(manual).unwrap();
    assert!(manual.contains(&table), "docs/operations.md must hold this table:\n{table}");
}

#[test]
fn no_caller_can_make_the_exposition_grow() {
    let metrics = Metrics::new();
    let size = |metrics: &Metrics| {
        metrics.expose(&Views::default(), Format::Prometheus).unwrap().lines().count()
    };
    let before = size(&metrics);
    for n in 0..1000 {
        metrics.rpc(&format!("/made.up.Service{n}/Call"));
    }
    assert_eq!(size(&metrics), before);
}
