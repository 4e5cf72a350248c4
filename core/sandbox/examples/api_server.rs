//! # An API server alone
//!
//! Job: runs the sandbox's API server for a person with kubectl; prints where its kubeconfig lies.
//! May touch: the folder and address given. Must not touch: Pods.
//! Callers: a person: `cargo run -p mesh-sandbox --example api_server -- <folder> <ip:port>`.

use mesh_sandbox::api::{ApiConfig, ApiServer};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().unwrap_or_else(|| "sandbox-api".into());
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:0".into()).parse()?;
    let server = ApiServer::start(ApiConfig::new("sandbox", &folder, addr)).await?;
    let kubeconfig = std::path::Path::new(&folder).join("kubeconfig");
    std::fs::write(&kubeconfig, server.admin_kubeconfig())?;
    eprintln!("serving on {}; kubectl --kubeconfig {}", server.url(), kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
