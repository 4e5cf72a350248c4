//! # The program in the Pods
//!
//! Job: a tiny HTTP server that tells what it sees of its Pod.
//! May touch: its Pod's address and files. Callers: the node agent under test.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::ExitCode,
    time::Duration,
};

/// `argv[0]` of the program.
pub(crate) const NAME: &str = "test-program";

/// `serve`: answer requests; `write <file> <text>`: write below the Pod's root and end; `fail`: end with 7.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let root = std::env::var("MESH_POD_ROOT").unwrap_or_default();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["write", file, text] => {
            fs::write(format!("{root}{file}"), text).expect("the folder is mounted");
            ExitCode::SUCCESS
        }
        ["fail"] => ExitCode::from(7),
        ["serve", delay] => {
            std::thread::sleep(Duration::from_millis(delay.parse().expect("milliseconds")));
            serve(&root)
        }
        other => panic!("unknown {other:?}"),
    }
}

fn serve(root: &str) -> ExitCode {
    let ip = std::env::var("MESH_POD_IP").expect("the sandbox tells the address");
    let listener = TcpListener::bind(format!("{ip}:8080")).expect("the address is ours");
    println!("serving on {ip}");
    for stream in listener.incoming().flatten() {
        let mut stream = stream;
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).unwrap_or(0);
        let head = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let path = head.split_whitespace().nth(1).unwrap_or("/");
        let body = if let Some(name) = path.strip_prefix("/env/") {
            std::env::var(name).unwrap_or_default()
        } else if let Some(file) = path.strip_prefix("/file") {
            fs::read_to_string(format!("{root}{file}")).unwrap_or_else(|e| format!("error: {e}"))
        } else if path == "/pid" {
            std::process::id().to_string()
        } else if path == "/exit" {
            return ExitCode::from(3);
        } else {
            stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default()
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes());
    }
    ExitCode::SUCCESS
}
