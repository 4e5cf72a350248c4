//! Networks that a test makes for itself: namespaces with a link between, without any other program.

use mesh_init::netlink::{Attrs, CREATE, Message, Socket};
use rustix::{
    process::{Gid, Uid, getuid},
    thread::{
        LinkNameSpaceType, UnshareFlags, move_into_link_name_space, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd},
    process::Command,
    thread,
};

/// The user that applications of a test are: the one user beside root that exists with or without root.
pub(crate) const APP: u32 = 2102;
/// Set in the copy of a test that runs with rights over networks of its own.
const WITH_RIGHTS: &str = "MESH_TEST_WITH_RIGHTS";

/// Runs a test's body where it may make namespaces: here as root, else in a copy of this test within a
/// user namespace. A kernel that allows neither fails the test.
pub(crate) fn with_rights(test: &str, body: impl FnOnce()) {
    if may_make_namespaces() {
        return body();
    }
    assert!(
        std::env::var_os(WITH_RIGHTS).is_none(),
        "{REFUSED}\n(a user namespace was made, but gives no rights over networks)"
    );
    let user = [format!("--map-user={APP}"), format!("--map-group={APP}")];
    let copy = Command::new("unshare")
        .args(["--user", "--keep-caps"])
        .args(user)
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(WITH_RIGHTS, "1")
        .output();
    let output =
        copy.unwrap_or_else(|error| panic!("{REFUSED}\n(`unshare` does not start: {error})"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("unshare:"), "{REFUSED}\n({said})");
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

const REFUSED: &str = "THIS TEST DID NOT RUN: it needs network namespaces. Run it as root, or allow user namespaces \
                       (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces>0, \
                       kernel.apparmor_restrict_unprivileged_userns=0) and install util-linux.";

fn may_make_namespaces() -> bool {
    thread::spawn(|| unshare_network().is_ok()).join().unwrap()
}

#[expect(deprecated, reason = "its danger is in flags about descriptors, which are not used")]
fn unshare_network() -> io::Result<()> {
    Ok(rustix::thread::unshare(UnshareFlags::NEWNET)?)
}

/// A network namespace; it ends with the last process, socket or handle in it.
pub(crate) struct Namespace(File);

impl Namespace {
    /// A new one, in which loopback works.
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare_network().unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = Self(made.join().unwrap());
        namespace.run(|| tell(&[up(LOOPBACK)]));
        namespace
    }

    /// Runs in it, with all rights.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            body()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| {
            std::panic::resume_unwind(panic);
        })
    }

    /// Runs in it as the application's user.
    pub(crate) fn run_as_app<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.run(|| {
            if getuid().is_root() {
                let (uid, gid) = (Uid::from_raw(APP), Gid::from_raw(APP));
                set_thread_res_gid(gid, gid, gid).unwrap();
                set_thread_res_uid(uid, uid, uid).unwrap();
            }
            body()
        })
    }

    /// Its path, for programs that enter it by themselves.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Joins two new namespaces with a link, and gives each its address, in a network of 24 bits.
pub(crate) fn join(a: (&Namespace, Ipv4Addr), b: (&Namespace, Ipv4Addr)) {
    let peer_namespace = u32::try_from(b.0.0.as_raw_fd()).unwrap();
    let mut peer = link_header(LINK, 0);
    let peer_attrs =
        Attrs::new().text(3, "eth0").bytes(NAMESPACE_FD, &peer_namespace.to_ne_bytes());
    peer.extend(peer_attrs.as_bytes());
    let pair = Attrs::new().bytes(1 | 0x8000, &peer);
    let info = Attrs::new().text(1, "veth").nest(2, &pair);
    let attrs = Attrs::new().text(3, "eth0").nest(18, &info);
    a.0.run(|| tell(&[Message::new(NEW_LINK, CREATE, &link_header(LINK, 0), attrs)]));
    for (namespace, address) in [a, b] {
        namespace.run(|| tell(&[new_address(address), up(LINK)]));
    }
}

fn new_address(address: Ipv4Addr) -> Message {
    let mut header = vec![2, 24, 0, 0];
    header.extend(LINK.to_ne_bytes());
    let attrs = Attrs::new().bytes(1, &address.octets()).bytes(2, &address.octets());
    Message::new(NEW_ADDRESS, CREATE, &header, attrs)
}

fn up(index: u32) -> Message {
    Message::new(NEW_LINK, 0, &link_header(index, 1), Attrs::new())
}

fn link_header(index: u32, up: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for number in [index, up, up] {
        header.extend(number.to_ne_bytes());
    }
    header
}

fn tell(messages: &[Message]) {
    let socket = Socket::route().unwrap();
    for message in messages {
        let answers = socket.exchange(&[message.clone().confirmed()]).unwrap();
        assert_eq!(answers.iter().map(|a| a.errno).collect::<Vec<_>>(), [0], "{message:?}");
    }
}

const LOOPBACK: u32 = 1;
/// The first link of a new namespace.
const LINK: u32 = 2;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NAMESPACE_FD: u16 = 28;
