//! `docs/deploy.md`: what can be run of it is run as it stands there; of the rest, what it names is there.

use std::process::Command;
use std::time::Duration;

use tests::binaries::workspace_root;
use tests::network::with_network;
use tests::process::Running;

use crate::docker::{image, stages};
use crate::installed::Installed;
use crate::linter::{verdict, yaml};

fn page() -> String {
    fs_err::read_to_string(workspace_root().join("docs/deploy.md")).unwrap()
}

/// The blocks of one language: `bash` is run as it is, of `sh` what can be (`archive`).
pub(crate) fn blocks(language: &str) -> Vec<String> {
    let page = page();
    let blocks = page.split("```").skip(1).step_by(2);
    let ours = blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    ours.map(str::to_owned).collect()
}

#[test]
fn the_cluster_by_hand_is_one() {
    let installed = Installed::lay();
    let folder = installed.folder().join("by-hand");
    fs_err::create_dir(&folder).unwrap();
    let blocks = blocks("bash");
    assert_eq!(blocks.len(), 1);
    // Job control, as at a prompt; an error ends it, and nothing outlives it.
    let script = format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT; set -em\n{}", blocks[0]);
    let path = std::env::var("PATH").unwrap();
    // The page's port is free in a network of its own.
    with_network(0, |_| {
        let mut bash = Command::new("timeout");
        bash.args(["50", "bash", "-c", &script]).current_dir(&folder).env_clear();
        bash.env("HOME", &folder);
        bash.env("PATH", format!("{}:{path}", installed.prefix().join("bin").display()));
        let mut running = Running::start(&mut bash, &folder.join("log"));
        let status = running.wait(Duration::from_secs(60));
        let said = running.output();
        assert!(status.success(), "{status}:\n{said}");
        assert!(said.contains("succeeded") && said.contains("node1"), "{said}");
    });
}

#[test]
fn the_page_names_what_is_there() {
    let page = page();
    for word in page.split(|c: char| c.is_whitespace() || "`()[]".contains(c)) {
        let is_pattern = word.contains('*');
        if ["deploy/", "tools/", "tests/"].iter().any(|folder| word.starts_with(folder))
            && !is_pattern
        {
            let path = word.trim_end_matches([',', '.', ';', ':']);
            assert!(workspace_root().join(path).exists(), "{path}");
        }
    }
    let lines: Vec<String> = blocks("sh")
        .iter()
        .flat_map(|b| b.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let services = &yaml("deploy/docker/compose.yaml")[0]["services"];
    let mut compose = 0;
    for line in lines.iter().filter(|line| line.contains("docker compose")) {
        // `run --rm SERVICE VERB ...` and `--scale SERVICE=N`.
        if let Some((_, call)) = line.split_once("run --rm ") {
            let words: Vec<_> = call.split(' ').collect();
            assert!(services.get(words[0]).is_some(), "{line}");
            let mut rsctl = Command::new(tests::binaries::binary(words[0]));
            let (is_content, help) = verdict(rsctl.args([words[1], "--help"]));
            assert!(is_content, "{line}");
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(flag), "{line}: no {flag}");
            }
            for file in words.iter().filter_map(|word| word.strip_prefix("/checkout/")) {
                assert!(workspace_root().join(file).is_file(), "{line}");
            }
        }
        compose += 1;
    }
    assert_eq!(compose, 4);
    assert!(page.contains(&format!(" {}\n", image("worker"))), "docker run names another image");
    for target in ["coordinator", "worker", "rsctl"] {
        assert!(stages().iter().any(|stage| stage.name == target));
    }
    let units = ["rustspeed-coordinator", "rustspeed-worker@"];
    for unit in units {
        let file = format!("deploy/systemd/{unit}.service");
        assert!(workspace_root().join(&file).is_file() && page.contains(unit), "{file}");
    }
    // The Job that its logs are asked of.
    let job =
        yaml("deploy/kubernetes/job.yaml")[1]["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(page.contains(&format!("job/{job}")), "{job}");
    let coordinator = &yaml("deploy/kubernetes/coordinator.yaml")[0]["metadata"]["name"];
    assert!(page.contains(&format!("service/{}", coordinator.as_str().unwrap())));
}
