//! # `mesh install-cni`
//!
//! Job: print the manifests of the CNI plugin, which sets redirect rules so that Pods need no rights for it.
//! May touch: the files named. Callers: `lib.rs`.

use std::process::ExitCode;

use anyhow::Result;
use mesh_charts::{CNI, Release, values};
use serde_json::{Value, json};

use crate::{
    install::self_signed,
    output::{self, Format, note},
    proxy_flags::put,
    values::{ValueFlags, unknown},
};

/// Arguments of `mesh install-cni`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Namespace of the plugin
    #[arg(long, default_value = "linkerd-cni")]
    cni_namespace: String,
    /// Registry of the image
    #[arg(long, env = "LINKERD_DOCKER_REGISTRY", hide_env = true)]
    registry: Option<String>,
    /// Image of the plugin
    #[arg(long)]
    cni_image: Option<String>,
    /// Version (tag) of the image
    #[arg(long)]
    cni_image_version: Option<String>,
    /// User id of the proxy, whose connections are not redirected
    #[arg(long)]
    proxy_uid: Option<i64>,
    /// Group id of the proxy
    #[arg(long, allow_negative_numbers = true)]
    proxy_gid: Option<i64>,
    /// Port for traffic to the application
    #[arg(long)]
    inbound_port: Option<u16>,
    /// Port for traffic from the application
    #[arg(long)]
    outbound_port: Option<u16>,
    /// Port of the proxy's control server
    #[arg(long)]
    control_port: Option<u16>,
    /// Port for metrics and probes
    #[arg(long)]
    admin_port: Option<u16>,
    /// Ports and ranges that bypass the proxy on their way in
    #[arg(long)]
    skip_inbound_ports: Option<String>,
    /// Ports and ranges that bypass the proxy on their way out
    #[arg(long)]
    skip_outbound_ports: Option<String>,
    /// The only inbound ports that are redirected
    #[arg(long)]
    redirect_ports: Option<String>,
    /// Log level of plugin and installer
    #[arg(long)]
    cni_log_level: Option<String>,
    /// Folder of network configurations on the nodes
    #[arg(long)]
    dest_cni_net_dir: Option<String>,
    /// Folder of plugins on the nodes
    #[arg(long)]
    dest_cni_bin_dir: Option<String>,
    /// Priority class of the Pods
    #[arg(long)]
    priority_class_name: Option<String>,
    /// Accepted for compatibility: there is no lock to wait for
    #[arg(long, hide = true)]
    use_wait_flag: bool,
    /// Accepted for compatibility: nothing is read from the cluster
    #[arg(long, hide = true)]
    ignore_cluster: bool,
    /// How to print: yaml or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    values: ValueFlags,
}

/// Prints the manifests.
pub(crate) fn run(args: &Args) -> ExitCode {
    let print = || -> Result<()> {
        let objects = args.objects()?;
        output::manifests(&objects, args.output)?;
        Ok(())
    };
    output::exit(print())
}

impl Args {
    fn objects(&self) -> Result<Vec<Value>> {
        let defaults = CNI.defaults()?;
        let mut all = defaults.clone();
        let image =
            self.registry.as_ref().map(|r| format!("{}/cni-plugin", r.trim_end_matches('/')));
        let text = |value: &Option<String>| value.as_ref().map(|v| json!(v));
        let port = |value: Option<u16>| value.map(|v| json!(v));
        let id = |value: Option<i64>| value.map(|v| json!(v));
        let rows = [
            ("image.name", text(&self.cni_image).or_else(|| text(&image))),
            ("image.version", text(&self.cni_image_version)),
            ("proxyUID", id(self.proxy_uid)),
            ("proxyGID", id(self.proxy_gid)),
            ("inboundProxyPort", port(self.inbound_port)),
            ("outboundProxyPort", port(self.outbound_port)),
            ("proxyControlPort", port(self.control_port)),
            ("proxyAdminPort", port(self.admin_port)),
            ("ignoreInboundPorts", text(&self.skip_inbound_ports)),
            ("ignoreOutboundPorts", text(&self.skip_outbound_ports)),
            ("portsToRedirect", text(&self.redirect_ports)),
            ("logLevel", text(&self.cni_log_level)),
            ("destCNINetDir", text(&self.dest_cni_net_dir)),
            ("destCNIBinDir", text(&self.dest_cni_bin_dir)),
            ("priorityClassName", text(&self.priority_class_name)),
            ("useWaitFlag", self.use_wait_flag.then(|| json!(true))),
        ];
        for (path, value) in rows {
            if let Some(value) = value {
                put(&mut all, path, value);
            }
        }
        let given = self.values.read()?;
        for path in unknown(&defaults, &given) {
            note(format!("The value `{path}` has no effect: the chart does not know it."));
        }
        values::merge(&mut all, &given);
        Ok(CNI.render(Release::cli(&self.cni_namespace), &all, &self_signed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_reach_the_chart() {
        let objects = |flags: &[&str]| {
            let line = ["install-cni"].iter().chain(flags).copied();
            Line::parse_from(line).args.objects().unwrap()
        };
        let printed =
            objects(&["--registry", "r.example/m/", "--inbound-port", "5143", "--proxy-uid", "7"]);
        let set = printed.iter().find(|o| o["kind"] == "DaemonSet").unwrap();
        let image = set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap();
        assert!(image.starts_with("r.example/m/cni-plugin:"), "{image}");
        let config = printed.iter().find(|o| o["kind"] == "ConfigMap").unwrap();
        let config = config["data"]["cni_network_config"].as_str().unwrap();
        assert!(config.contains("\"incoming-proxy-port\": 5143"), "{config}");
        assert!(config.contains("\"proxy-uid\": 7"), "{config}");
    }
}
