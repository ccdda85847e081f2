//! `central-node certificates`

use time::Duration;

use super::Streams;
use crate::args::CertificatesArgs;
use crate::certificate::{self, Authority, CertificateError};
use crate::exit::ExitStatus;

/// Makes what is asked for and not there, and says which files.
pub fn run(args: &CertificatesArgs, streams: &mut Streams<'_>) -> ExitStatus {
    let lines = match make(args) {
        Ok(lines) => lines,
        Err(error) => return streams.fail(&error, ExitStatus::Usage),
    };
    let written = lines
        .iter()
        .try_for_each(|line| writeln!(streams.out, "{line}"));
    streams.written(written)
}

fn make(args: &CertificatesArgs) -> Result<Vec<String>, CertificateError> {
    let folder = &args.folder;
    let length = Duration::days(i64::from(args.days));
    certificate::folder(folder)?;
    let authority = Authority::open(folder, length)?;
    let ca = folder.join(certificate::CA);
    let mut lines = vec![format!("authority  {}", ca.display())];
    let (server, key) = (
        folder.join(certificate::SERVER),
        folder.join(certificate::SERVER_KEY),
    );
    if !server.exists() {
        authority
            .server(&args.server, length)?
            .write(&server, &key)?;
    }
    lines.push(format!("server     {} {}", server.display(), key.display()));
    for agent_id in &args.agent {
        let (certificate, key) = (
            folder.join(format!("agent-{agent_id}.pem")),
            folder.join(format!("agent-{agent_id}.key")),
        );
        authority
            .agent(*agent_id, length)?
            .write(&certificate, &key)?;
        lines.push(format!(
            "agent      {} {}",
            certificate.display(),
            key.display()
        ));
    }
    Ok(lines)
}
