//! # The proxy's binary
//!
//! Job: settings -> configs -> stacks -> run -> drain.
//! May touch: the environment, through its settings table. Callers: `main.rs`, `core/cli`.

mod settings;
