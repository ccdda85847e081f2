//! `central-node serve`

use tokio::signal::unix::{SignalKind, signal};

use super::{Streams, store_status};
use crate::args::ServeArgs;
use crate::config::{Config, ConfigFile, Overrides};
use crate::exit::ExitStatus;
use crate::notify;
use crate::server::{Node, StartError};

/// Serves until a signal says to stop.
pub fn run(args: &ServeArgs, streams: &mut Streams<'_>) -> ExitStatus {
    let file = match &args.config {
        Some(path) => match ConfigFile::read(path) {
            Ok(file) => file,
            Err(error) => return streams.fail(&error, ExitStatus::Usage),
        },
        None => ConfigFile::default(),
    };
    let overrides = Overrides {
        listen: args.listen,
        folder: args.data.clone(),
        certificate: args.certificate.clone(),
        key: args.key.clone(),
        client_ca: args.client_ca.clone(),
    };
    let config = match file.meant(&overrides) {
        Ok(config) => config,
        Err(error) => return streams.fail(&error, ExitStatus::Usage),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("serve")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(config, streams)),
        Err(error) => streams.fail(&error, ExitStatus::Internal),
    }
}

async fn serve(config: Config, streams: &mut Streams<'_>) -> ExitStatus {
    // Before the address is told: who reads it may stop the node at once.
    let signals = signal(SignalKind::interrupt())
        .and_then(|interrupt| Ok((interrupt, signal(SignalKind::terminate())?)));
    let (mut interrupt, mut terminate) = match signals {
        Ok(signals) => signals,
        Err(error) => return streams.fail(&error, ExitStatus::Internal),
    };
    let node = match Node::start(config).await {
        Ok(node) => node,
        Err(error) => {
            let status = match &error {
                StartError::Tls(_) => ExitStatus::Usage,
                StartError::Store(error) => store_status(error),
                StartError::AlreadyRunning { .. } => ExitStatus::AlreadyRunning,
                StartError::Listen { .. } => ExitStatus::Output,
                StartError::System(_) => ExitStatus::Internal,
            };
            return streams.fail(&error, status);
        }
    };
    let told =
        writeln!(streams.out, "listening on {}", node.address()).and_then(|()| streams.out.flush());
    if let Err(error) = told {
        tracing::debug!(%error, "nobody reads where the node listens");
    }
    notify::ready(&node.address());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    notify::stopping();
    node.stop().await;
    ExitStatus::Ok
}
