//! Compiles the `.proto` files with protox: no protoc is needed.

use std::fmt::Write as _;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["coordinator", "worker", "trainer"].map(|f| format!("rustspeed/v1/{f}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs_err::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut methods = String::from("&[\n");
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let (package, service, method) = (file.package(), service.name(), method.name());
                writeln!(methods, "    \"{package}.{service}/{method}\",")?;
            }
        }
    }
    fs_err::write(out.join("methods.rs"), methods + "]")?;
    tonic_prost_build::configure()
        // Generated clients would connect by themselves; all connections go through
        // service::transport, which has deadlines and keep-alive.
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
