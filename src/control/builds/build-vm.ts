/** The temporary VM of an image build: booted lean, copied between steps, shut down, gone afterwards or handed over. */
import { mkdir, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { type NewVm, newVm } from '../../core/new-vm.ts';
import type { VmRecord } from '../../core/vm.ts';
import { DEFAULT_WORK_MOUNT } from '../../core/work-mount.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { action, setState } from '../../firecracker/requests.ts';
import { quote } from '../../guest/command.ts';
import { generateKeyPair } from '../../guest/keys.ts';
import { type GuestRun, runInGuest } from '../../guest/run.ts';
import type { SshConnection } from '../../guest/ssh.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { vmFiles } from '../../storage/layout.ts';
import { removeUnshared } from '../../storage/shared-files.ts';
import { sideBySide } from '../../system/abort.ts';
import { waitForEnd } from '../../system/processes.ts';
import { freeUser } from '../handover.ts';
import type { Host } from '../host.ts';
import { awaitLogin, configureVm, launchVm, writeVmSeed } from '../vm/boot.ts';
import { newVmId } from '../vm/identity.ts';
import { releaseVm } from '../vm/release.ts';
import { findVmmOf, vmmSocketOf } from '../vmm.ts';

/**
 * A systemd guest boots to a target of its own that wants nothing: SSH answers from the initrd on, and what a distribution
 * starts at a boot would cost an emulated guest more than installing packages. Other inits boot as they always do.
 */
const LEAN_TARGET = 'banger-build.target';
/**
 * Programs systemd runs at each boot to make units of what it finds: an emulated guest is busy with them for seconds, beside
 * the first steps. An empty file in /run masks one. Those for fstab and init scripts stay, for services that run lines start.
 */
const LEAN_MASKED = [
  ...['bless-boot', 'cryptsetup', 'debug', 'factory-reset', 'getty', 'gpt-auto', 'hibernate-resume', 'import'],
  ...['integritysetup', 'rc-local', 'run', 'ssh', 'system-update', 'tpm2', 'veritysetup'],
].map((name) => `/run/systemd/system-generators/systemd-${name}-generator`);
const LEAN_FILES = {
  [`/run/systemd/system/${LEAN_TARGET}`]:
    '[Unit]\nDescription=Image build of banger\nDefaultDependencies=no\nAllowIsolate=yes\n',
  ...Object.fromEntries(LEAN_MASKED.map((path) => [path, ''])),
};
export const LEAN_ARGS = `systemd.unit=${LEAN_TARGET} systemd.log_level=warning`;

/**
 * Ends what runs, as a shutdown does, and leaves the rest to the kernel: read-only, then reset. An init would do the same
 * with programs of its own, which takes an emulated guest two seconds. The login this comes over ends with the others.
 */
const SHUTDOWN_COMMAND = [
  // until the host has read that it goes down: what carries that to it ends with the others
  'read -r _',
  'exec > /dev/null 2>&1 < /dev/null',
  "trap '' HUP TERM PIPE",
  'if ! [ -w /proc/sysrq-trigger ]; then sync; systemctl reboot --force || reboot -f; exit; fi',
  // threads of the kernel have no program
  'others() {',
  '  for each in /proc/[0-9]*; do',
  '    case $each in /proc/1 | "/proc/$$") ;; *) if [ -e "$each/exe" ]; then return 0; fi ;; esac',
  '  done',
  '  return 1',
  '}',
  'written() {',
  '  while read -r _ place _ options _; do',
  '    case "$place $options" in "/ ro" | "/ ro,"*) return 0 ;; esac',
  '  done < /proc/mounts',
  '  return 1',
  '}',
  'kill -TERM -1',
  'for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do others || break; sleep 0.05; done',
  'kill -KILL -1',
  // before the kernel is asked, because what follows waits for it only so long
  'sync',
  'echo u > /proc/sysrq-trigger',
  'for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do written && break; sleep 0.05; done',
  'echo b > /proc/sysrq-trigger',
].join('\n');

/** What the guest says between what is to be done first and the shutdown. */
const GOING_DOWN = 'banger: going down';

/** A VMM that writes the memory of its guest answers nothing else until that is done. */
const RESUME_LIMIT_MS = 10 * 60_000;

/** Everything written must reach the disk before the machine is held for a copy of it. */
const SYNC_LIMIT_MS = 5 * 60_000;

/** Without sizes of disks, nothing is known of them yet. */
export type BuildVmRequest = Pick<NewVm, 'name' | 'image' | 'vcpus' | 'memoryMib'> &
  Partial<Pick<NewVm, 'imageId' | 'rootDiskBytes' | 'workDiskBytes' | 'workDiskMount' | 'nat'>>;

/** Takes id, name and address; nothing exists on the host yet but the directory. */
export async function admitBuildVm(host: Host, request: BuildVmRequest): Promise<VmRecord> {
  const hostKey = await generateKeyPair(request.name);
  const id = newVmId();
  const user = freeUser(host, id);
  const vm = host.stores.buildVms.admit(host.network.pool, (address) => ({
    ...newVm({
      id,
      workDiskMount: DEFAULT_WORK_MOUNT,
      ...request,
      address,
      hostKeyPrivate: hostKey.privateKey,
      hostKeyPublic: hostKey.publicKey,
      createdAt: host.now(),
    }),
    phase: 'running',
    user,
  }));
  try {
    await makeDirectory(host, vm);
  } catch (error) {
    await discardBuildVm(host, vm);
    throw error;
  }
  return vm;
}

async function makeDirectory(host: Host, vm: VmRecord): Promise<void> {
  const { directory } = vmFiles(host.config.paths.store, vm.id);
  host.stores.ledger.record(vm.id, { kind: 'directory', name: directory });
  await mkdir(directory, { recursive: true, mode: 0o700 });
}

/** Boots it from its root disk and logs in; what fails is freed by `discardBuildVm`. */
export async function bootBuildVm(
  host: Host,
  vm: VmRecord,
  boot: BootFiles,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<SshConnection> {
  await attachBuildVm(host, vm, boot, signal);
  await configureVm(host, vm, boot, signal, { extraArgs: LEAN_ARGS, throwaway: true });
  {
    await using api = connectVmm(vmmSocketOf(host, vm.id));
    await api.send(action('InstanceStart'));
  }
  vm.startedAt = host.now().toISOString();
  const connection = await awaitLogin(host, vm, timeoutMs, signal);
  host.guests.keep(vm, connection);
  return connection;
}

/** Gives it everything on the host that it needs to run, with a VMM that was told nothing yet; `also` goes on beside that. */
export async function attachBuildVm(
  host: Host,
  vm: VmRecord,
  boot: BootFiles,
  signal: AbortSignal,
  also: () => Promise<void> = async () => {},
): Promise<void> {
  await makeDirectory(host, vm); // a machine that goes on has none yet
  await sideBySide(signal, [
    also,
    () => writeVmSeed(host, vm, LEAN_FILES),
    () => host.network.attach(vm),
    async (either) => {
      vm.vmm = (await launchVm(host, vm, boot, either)).kind;
    },
  ]);
}

/** Holds the machine with everything on its disk while `work` copies it. */
export async function whilePaused<T>(host: Host, vm: VmRecord, connection: SshConnection, work: () => Promise<T>) {
  await runInGuest(connection, 'sync', { timeoutMs: SYNC_LIMIT_MS });
  await using api = connectVmm(vmmSocketOf(host, vm.id));
  try {
    // one that is late holds the guest after it was given up here
    await api.send(setState('Paused'));
    return await work();
  } finally {
    await api.send(setState('Resumed'), RESUME_LIMIT_MS);
  }
}

export interface Shutdown {
  /** shell script that is run before; a command of its own would cost another second */
  first: string;
  /** limit of `first` in `ms` */
  firstLimitMs: number;
  /** limit of the shutdown itself in `ms` */
  timeoutMs: number;
  signal: AbortSignal;
  /** called when `first` is done */
  onGoingDown(): void;
}

/**
 * Shuts the guest down and frees what it held on the host; its disk stays.
 * @returns how `first` ended where that did not come to its end; otherwise whether the guest went by itself
 */
export async function shutDownBuildVm(
  host: Host,
  vm: VmRecord,
  connection: SshConnection,
  { first, firstLimitMs, timeoutMs, signal, onGoingDown }: Shutdown,
): Promise<{ failed: GuestRun } | { byItself: boolean }> {
  const vmm = await findVmmOf(host, vm);
  let goesDown = false;
  const input = new Readable({ read() {} });
  const script = `{\n${first}\n} < /dev/null\necho '${GOING_DOWN}'\n${SHUTDOWN_COMMAND}`;
  // whatever shell root has
  const run = await runInGuest(connection, `exec sh -c ${quote(script)}`, {
    timeoutMs: firstLimitMs,
    signal,
    input,
    onLine(line) {
      if (line !== GOING_DOWN) return;
      goesDown = true;
      input.push(null);
      onGoingDown();
    },
  });
  if (!goesDown) return { failed: run };
  const byItself = vmm === undefined || (await waitForEnd(vmm, timeoutMs, signal));
  await releaseVm(host, vm);
  return { byItself };
}

/** Frees everything of it, in an order that a crash cannot turn into a leak. */
export async function discardBuildVm(host: Host, vm: VmRecord): Promise<void> {
  await releaseVm(host, vm);
  for (const resource of host.stores.ledger.of(vm.id)) {
    if (resource.kind !== 'directory') continue;
    await rm(resource.name, { recursive: true, force: true });
    host.stores.ledger.strike('directory', resource.name);
  }
  host.stores.buildVms.forget(vm.id);
  await removeUnshared(host.config.paths.store);
}
