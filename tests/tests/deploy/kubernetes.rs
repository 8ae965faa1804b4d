//! The Kubernetes manifests: they fit the schemas of Kubernetes, and what they say of each other and of our
//! binaries is so. There is no cluster to apply them to here.

use std::process::Command;

use serde_json::Value;
use tests::binaries::{binary, workspace_root};

use crate::docker::image;
use crate::linter::{program, verdict, yaml};

const FILES: [&str; 3] = ["coordinator", "worker", "job"];
/// The oldest and the newest that we name in docs/deploy.md.
const VERSIONS: [&str; 2] = ["1.27", "1.34"];

fn path(name: &str) -> String {
    format!("deploy/kubernetes/{name}.yaml")
}

fn documents() -> Vec<Value> {
    FILES.iter().flat_map(|name| yaml(&path(name))).collect()
}

/// The pod template of a controller, if it is one.
fn pod(document: &Value) -> Option<&Value> {
    document["spec"].get("template")
}

fn containers() -> Vec<Value> {
    let documents = documents();
    let pods = documents.iter().filter_map(pod);
    pods.flat_map(|pod| pod["spec"]["containers"].as_array().unwrap().clone()).collect()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn the_manifests_fit_the_schemas_of_kubernetes() {
    let Some(validate) = program("kubernetes-validate") else { return };
    let files = FILES.map(|name| workspace_root().join(path(name)));
    let check = |version: &str, files: &[std::path::PathBuf]| {
        verdict(Command::new(&validate).args(["--strict", "-k", version]).args(files))
    };
    for version in VERSIONS {
        let (is_content, said) = check(version, &files);
        assert!(is_content, "{version}: {said}");
    }
    // It would have said so.
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.yaml");
    let text = fs_err::read_to_string(&files[0]).unwrap();
    fs_err::write(&wrong, text.replace("readinessProbe", "readynessProbe")).unwrap();
    let (is_content, said) = check(VERSIONS[0], &[wrong]);
    assert!(!is_content && said.contains("readynessProbe"), "{said}");
}

#[test]
fn pods_carry_the_labels_that_select_them() {
    let mut pods = 0;
    let documents = documents();
    for document in documents.iter().filter(|document| pod(document).is_some()) {
        let labels = &pod(document).unwrap()["metadata"]["labels"];
        let selector = &document["spec"]["selector"]["matchLabels"];
        assert!(selector.is_null() || selector == labels, "{}", document["metadata"]["name"]);
        pods += 1;
    }
    assert_eq!(pods, 3);
    let coordinator = documents.iter().find(|document| document["kind"] == "StatefulSet").unwrap();
    let labels = &pod(coordinator).unwrap()["metadata"]["labels"];
    let service = documents.iter().find(|document| document["kind"] == "Service").unwrap();
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(service["metadata"]["name"], coordinator["spec"]["serviceName"]);
    let policy = documents.iter().find(|document| document["kind"] == "NetworkPolicy").unwrap();
    assert_eq!(&policy["spec"]["podSelector"]["matchLabels"], labels);
    // What pods mount is a volume of theirs, and a claim is there or made.
    for document in &documents {
        let Some(pod) = pod(document) else { continue };
        let templates = document["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
        let made = templates.map(|template| &template["metadata"]["name"]);
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let names: Vec<_> = volumes.clone().map(|volume| &volume["name"]).chain(made).collect();
        for mount in pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap() {
            assert!(names.contains(&&mount["name"]), "{mount}");
        }
        for claim in volumes.filter_map(|volume| volume.get("persistentVolumeClaim")) {
            let is_there = documents.iter().any(|other| {
                other["kind"] == "PersistentVolumeClaim"
                    && other["metadata"]["name"] == claim["claimName"]
            });
            assert!(is_there, "{claim}");
        }
    }
}

#[test]
fn containers_are_images_of_ours_without_privileges() {
    for container in containers() {
        let name = container["name"].as_str().unwrap();
        assert_eq!(container["image"], image(name));
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"], "{name}");
        assert!(container["resources"]["limits"]["memory"].is_string(), "{name} has no limit");
    }
    // What a namespace asks for that enforces the `restricted` standard.
    for pod in documents().iter().filter_map(pod) {
        let context = &pod["spec"]["securityContext"];
        assert_eq!(context["runAsNonRoot"], true);
        assert_eq!(context["runAsUser"], 10001, "as in the Dockerfile");
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
        for host in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod["spec"].get(host).is_none(), "{host}");
        }
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            assert!(volume.get("hostPath").is_none(), "{volume}");
        }
    }
}

const PROBES: [&str; 3] = ["startupProbe", "livenessProbe", "readinessProbe"];

/// The page of each probe, and the one that is scraped.
pub(crate) fn pages() -> Vec<String> {
    let documents = documents();
    let coordinator = documents.iter().find(|document| document["kind"] == "StatefulSet").unwrap();
    let template = pod(coordinator).unwrap();
    let container = &template["spec"]["containers"][0];
    let asked = PROBES.map(|probe| &container[probe]["httpGet"]["path"]);
    let scraped = &template["metadata"]["annotations"]["prometheus.io/path"];
    let pages = asked.into_iter().chain([scraped]);
    pages.map(|page| page.as_str().unwrap().to_owned()).collect()
}

#[test]
fn probes_and_scrapers_ask_the_port_that_the_coordinator_listens_on() {
    let documents = documents();
    let coordinator = documents.iter().find(|document| document["kind"] == "StatefulSet").unwrap();
    let template = pod(coordinator).unwrap();
    let container = &template["spec"]["containers"][0];
    let port = &container["ports"][0];
    for probe in PROBES {
        assert_eq!(container[probe]["httpGet"]["port"], port["name"], "{probe}");
    }
    // One that is not in charge gets no new connections; it is not killed for a slow disk.
    assert_eq!(pages(), ["/healthz", "/healthz", "/readyz", "/metrics"]);
    let annotations = &template["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], port["containerPort"].to_string());
    assert!(
        texts(&container["args"]).contains(&format!("0.0.0.0:{}", port["containerPort"]).as_str())
    );
}

#[test]
fn containers_start_as_our_binaries_can_be_started() {
    for container in containers() {
        let name = container["name"].as_str().unwrap();
        let arguments = texts(&container["args"]);
        let mut command = Command::new(binary(name));
        command.env_clear();
        for variable in container["env"].as_array().into_iter().flatten() {
            // What Kubernetes fills in is a node's name.
            let value = variable["value"].as_str().unwrap_or("node-1.example");
            command.env(variable["name"].as_str().unwrap(), value);
        }
        match name {
            // Asks a cluster: at least the verb and its flags are there.
            "rsctl" => {
                let (_, help) = verdict(command.args([arguments[0], "--help"]));
                for flag in arguments.iter().filter(|argument| argument.starts_with("--")) {
                    assert!(help.contains(flag), "no {flag} in {help}");
                }
            }
            _ => {
                let (is_content, said) = verdict(command.args(&arguments).arg("--check-config"));
                assert!(is_content, "{name} {arguments:?}: {said}");
            }
        }
    }
}

#[test]
fn the_job_of_the_example_is_a_job() {
    let documents = yaml(&path("job"));
    let (map, job) = (&documents[0], &documents[1]);
    let pod = &pod(job).unwrap()["spec"];
    assert_eq!(pod["volumes"][0]["configMap"]["name"], map["metadata"]["name"]);
    let folder = tempfile::tempdir().unwrap();
    let mount = pod["containers"][0]["volumeMounts"][0]["mountPath"].as_str().unwrap();
    for (name, text) in map["data"].as_object().unwrap() {
        let submitted = format!("{mount}/{name}");
        assert!(texts(&pod["containers"][0]["args"]).contains(&submitted.as_str()), "{submitted}");
        let file = folder.path().join(name);
        fs_err::write(&file, text.as_str().unwrap()).unwrap();
        let (is_content, said) =
            verdict(Command::new(binary("rsctl")).args(["config", "check"]).arg(file));
        assert!(is_content, "{said}");
    }
}
