//! Compiles the `.proto` files with protox: no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["coordinator", "worker", "trainer"].map(|f| format!("rustspeed/v1/{f}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        // Generated clients would connect by themselves; all connections go through
        // service::transport, which has deadlines and keep-alive.
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
