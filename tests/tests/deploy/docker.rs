//! The Dockerfile and the compose file. There is no engine to build them with here: linters read them, and
//! what they copy, build and start is there.

use std::process::Command;

use tests::binaries::workspace_root;

use crate::linter::{program, verdict, yaml};

const DOCKERFILE: &str = "deploy/docker/Dockerfile";
const COMPOSE: &str = "deploy/docker/compose.yaml";

/// Instructions of the Dockerfile, with continued lines in one, by stage.
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) instructions: Vec<String>,
}

pub(crate) fn stages() -> Vec<Stage> {
    let text = fs_err::read_to_string(workspace_root().join(DOCKERFILE)).unwrap();
    let mut stages: Vec<Stage> = Vec::new();
    for line in text.replace("\\\n", " ").lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with("FROM ") {
            let name = line.split(" AS ").nth(1).unwrap_or_else(|| panic!("no name: {line}"));
            stages.push(Stage { name: name.to_owned(), instructions: Vec::new() });
        }
        if let Some(stage) = stages.last_mut().filter(|_| !line.is_empty()) {
            stage.instructions.push(line.to_owned());
        }
    }
    stages
}

/// `NAME:VERSION` of the image that a target is, as every file names it.
pub(crate) fn image(target: &str) -> String {
    let root: toml::Table =
        fs_err::read_to_string(workspace_root().join("Cargo.toml")).unwrap().parse().unwrap();
    let version = root["workspace"]["package"]["version"].as_str().unwrap();
    format!("rustspeed-{target}:{version}")
}

/// `HEALTHCHECK ... CMD [...]` of the coordinator's image.
pub(crate) fn health_check() -> Vec<String> {
    let stages = stages();
    let coordinator = stages.iter().find(|stage| stage.name == "coordinator").unwrap();
    let line = coordinator.instructions.iter().find(|line| line.starts_with("HEALTHCHECK "));
    serde_json::from_str(line.unwrap().split_once(" CMD ").unwrap().1).unwrap()
}

#[test]
fn hadolint_accepts_the_dockerfile() {
    let Some(hadolint) = program("hadolint") else { return };
    let lint = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("Dockerfile");
        fs_err::write(&file, text).unwrap();
        verdict(Command::new(&hadolint).arg("--no-color").arg(file))
    };
    let text = fs_err::read_to_string(workspace_root().join(DOCKERFILE)).unwrap();
    assert_eq!(lint(&text), (true, String::new()));
    // It would have said so.
    let (is_content, said) = lint(&text.replace("WORKDIR /src", "RUN cd /src"));
    assert!(!is_content && said.contains("DL3003"), "{said}");
    let (is_content, said) = lint(&text.replace("ENTRYPOINT [\"rsctl\"]", "ENTRYPONT [\"rsctl\"]"));
    assert!(!is_content, "{said}");
}

#[test]
fn compose_accepts_the_compose_file() {
    let Some(compose) = program("docker-compose") else { return };
    let check = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("compose.yaml");
        fs_err::write(&file, text).unwrap();
        verdict(Command::new(&compose).arg("-f").arg(file).args([
            "--profile",
            "tools",
            "config",
            "-q",
        ]))
    };
    let text = fs_err::read_to_string(workspace_root().join(COMPOSE)).unwrap();
    assert_eq!(check(&text), (true, String::new()));
    let (is_content, said) = check(&text.replace("stop_grace_period", "stop_grace_time"));
    assert!(!is_content && said.contains("stop_grace_time"), "{said}");
}

#[test]
fn the_dockerfile_copies_and_names_what_is_there() {
    let stages = stages();
    let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(
        names,
        ["source", "control-plane", "node", "base", "rsctl", "coordinator", "worker"]
    );
    for (index, stage) in stages.iter().enumerate() {
        for line in &stage.instructions {
            if let Some((from, _)) =
                line.strip_prefix("COPY --from=").and_then(|l| l.split_once(' '))
            {
                assert!(names[..index].contains(&from), "{line}");
            }
        }
    }
    let built = |name: &str| {
        let stage = stages.iter().find(|stage| stage.name == name).unwrap();
        stage.instructions.join("\n")
    };
    // libtorch and what links it are in the worker's image alone, and where the trainer looks.
    for small in ["rsctl", "coordinator"] {
        assert!(!built(small).contains("--from=node"), "{small} would bring libtorch along");
    }
    assert!(built("worker").contains("/opt/rustspeed/lib/rustspeed /usr/local/lib/rustspeed"));
    assert!(built("node").contains("make install PREFIX=/opt/rustspeed"));
    // What it builds is what cargo calls it.
    let line = built("control-plane");
    for binary in ["coordinator", "rsctl"] {
        assert!(
            line.contains(&format!("-p {binary}")) && line.contains(&format!("--bin {binary}"))
        );
    }
    // Nobody is root at the end, by a number, which Kubernetes can check.
    for image in ["rsctl", "coordinator", "worker"] {
        let own = built(image);
        let last = own.lines().rfind(|line| line.starts_with("USER "));
        assert!(last.is_none_or(|line| line == "USER 10001:10001"), "{image}: {last:?}");
    }
    assert!(built("base").contains("\nUSER 10001:10001"));
}

#[test]
fn the_compose_file_names_images_that_the_dockerfile_makes() {
    let services = &yaml(COMPOSE)[0]["services"];
    for (name, service) in services.as_object().unwrap() {
        let target = service["build"]["target"].as_str().unwrap();
        assert!(stages().iter().any(|stage| stage.name == target), "{name}: no target {target}");
        assert_eq!(service["image"], image(target), "{name}");
        let context = service["build"]["context"].as_str().unwrap();
        let context = workspace_root().join("deploy/docker").join(context);
        let dockerfile = service["build"]["dockerfile"].as_str().unwrap();
        assert!(context.join(dockerfile).is_file(), "{name}");
        // Folders of the checkout are mounted from where they are.
        for volume in service["volumes"].as_array().unwrap() {
            let from = volume.as_str().unwrap().split(':').next().unwrap();
            let folder = workspace_root().join("deploy/docker").join(from);
            assert!(!from.starts_with('.') || folder.is_dir(), "{from}");
        }
    }
    // The Dockerfile says it as well, in its head.
    let text = fs_err::read_to_string(workspace_root().join(DOCKERFILE)).unwrap();
    for target in ["coordinator", "worker", "rsctl"] {
        assert!(text.contains(&format!("-t {} .", image(target))), "{target}");
    }
}
