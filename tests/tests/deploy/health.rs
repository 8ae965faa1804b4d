//! Whoever asks how the coordinator is gets an answer from a real one: Kubernetes' probes, Prometheus, Docker.

use std::process::Command;

use tests::binaries::{binary, run_python};
use tests::cluster::Cluster;

use crate::docker::health_check;
use crate::kubernetes::pages;
use crate::linter::verdict;

/// Prints the status of each page, and what it says.
const ASK: &str = r#"
import sys, urllib.error, urllib.request
for page in sys.argv[2:]:
    try:
        answer = urllib.request.urlopen(f"http://{sys.argv[1]}{page}", timeout=10)
    except urllib.error.HTTPError as error:
        answer = error
    print(page, answer.status, answer.read().decode())
"#;

#[test]
fn a_coordinator_answers_what_kubernetes_and_docker_ask() {
    let cluster = Cluster::start(&[1]);
    let pages = pages();
    let mut asked = vec![cluster.master.as_str()];
    asked.extend(pages.iter().map(String::as_str));
    asked.push("/no-such-page");
    let said = run_python(ASK, &asked);
    for page in &pages {
        assert!(said.contains(&format!("{page} 200 ")), "{page}: {said}");
    }
    assert!(said.contains("/no-such-page 404 "), "{said}");
    assert!(said.contains("\nrustspeed_workers{state=\"ready\"} 1\n"), "{said}");

    let words = health_check();
    let ask = |master: &str| {
        let mut command = Command::new(binary(&words[0]));
        verdict(command.args(&words[1..]).env_clear().env("RUSTSPEED_MASTER", master))
    };
    let (is_healthy, said) = ask(&cluster.master);
    assert!(is_healthy, "{said}");
    // Nobody listens on port 1.
    let (is_healthy, said) = ask("127.0.0.1:1");
    assert!(!is_healthy, "{said}");
}
