//! How much memory a description takes: the sum of what its strings and lists have reserved.

use sensor_proto::v1::{Container, Credentials, FileInfo, Process};

/// What the allocator adds to each piece, about.
const PIECE_BYTES: usize = 16;

/// Bytes of a process with all that it owns.
pub(super) fn process(process: &Process) -> usize {
    let lists = [
        list(&process.argv),
        list(&process.argv_redacted),
        list(&process.environment),
        list(&process.script_chain),
        list(&process.absent),
        list(&process.unique_pid),
    ];
    let strings = [
        &process.comm,
        &process.working_directory,
        &process.cgroup_path,
    ];
    size_of::<Process>()
        + lists.iter().sum::<usize>()
        + strings.into_iter().map(optional).sum::<usize>()
        + process.argv.iter().map(list).sum::<usize>()
        + process
            .environment
            .iter()
            .map(|variable| list(&variable.name) + optional(&variable.value))
            .sum::<usize>()
        + process.image.as_ref().map_or(0, file)
        + process.script_chain.iter().map(file).sum::<usize>()
        + process.credentials.as_ref().map_or(0, credentials)
        + process.container.as_deref().map_or(0, container)
        + process.session.as_ref().map_or(0, |session| {
            optional(&session.tty) + optional(&session.remote_address) + list(&session.absent)
        })
        + process
            .parent
            .as_ref()
            .map_or(0, |parent| optional(&parent.unique_pid))
}

fn file(file: &FileInfo) -> usize {
    optional(&file.path)
        + optional(&file.unique_id)
        + optional(&file.link_target)
        + name(file.acl.as_ref())
        + name(file.default_acl.as_ref())
        + list(&file.absent)
        + file.hashes.as_ref().map_or(0, |hashes| {
            optional(&hashes.md5) + optional(&hashes.sha1) + optional(&hashes.sha256)
        })
        + name(file.owner_user.as_ref().and_then(|user| user.name.as_ref()))
        + name(
            file.owner_group
                .as_ref()
                .and_then(|group| group.name.as_ref()),
        )
}

fn credentials(credentials: &Credentials) -> usize {
    let users = [
        &credentials.real_user,
        &credentials.effective_user,
        &credentials.saved_user,
        &credentials.fs_user,
        &credentials.login_user,
    ];
    let groups = [
        &credentials.real_group,
        &credentials.effective_group,
        &credentials.saved_group,
        &credentials.fs_group,
        &credentials.login_group,
    ];
    let users = users.into_iter().flatten();
    let groups = groups.into_iter().flatten();
    users
        .map(|user| name(user.name.as_ref()) + name(user.domain.as_ref()))
        .sum::<usize>()
        + groups
            .chain(&credentials.supplementary_groups)
            .map(|group| name(group.name.as_ref()))
            .sum::<usize>()
        + list(&credentials.supplementary_groups)
        + list(&credentials.absent)
}

fn container(container: &Container) -> usize {
    size_of::<Container>()
        + PIECE_BYTES
        + name(Some(&container.id))
        + name(container.name.as_ref())
        + name(container.pod_id.as_ref())
        + name(container.image.as_ref())
        + name(container.image_digest.as_ref())
        + name(container.image_id.as_ref())
        + name(container.pod_name.as_ref())
        + name(container.pod_namespace.as_ref())
        + container
            .labels
            .iter()
            .map(|label| name(Some(&label.name)) + name(label.value.as_ref()))
            .sum::<usize>()
        + list(&container.labels)
        + list(&container.absent)
}

fn list<T>(items: &Vec<T>) -> usize {
    if items.capacity() == 0 {
        return 0;
    }
    items.capacity().saturating_mul(size_of::<T>()) + PIECE_BYTES
}

fn optional(bytes: &Option<Vec<u8>>) -> usize {
    bytes.as_ref().map_or(0, list)
}

fn name(text: Option<&String>) -> usize {
    text.map_or(0, |text| text.capacity() + PIECE_BYTES)
}
