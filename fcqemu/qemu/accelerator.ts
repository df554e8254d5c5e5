/**
 * KVM or emulation. That /dev/kvm opens proves nothing (there are nested hosts where no ordinary guest ever
 * gets past early boot), so the kernel in question is booted for a moment; the verdict is cached.
 */
import { accessSync, constants, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ioErrorText } from '../fault.ts';
import type { ThreadLog } from '../log.ts';
import type { Settings } from '../settings.ts';
import type { Accelerator } from './arguments.ts';
import { CONSOLE_FD, QMP_FD, startQemu } from './process.ts';

/** Time the kernel has for its first line; with a working KVM it takes a tenth of it. */
const SMOKE_TEST_MS = 3000;
const KVM_DEVICE = '/dev/kvm';

/** KVM was demanded and cannot be had; the text is Firecracker's. */
export class KvmUnavailable extends Error {}

/** @throws KvmUnavailable when KVM is demanded and its device cannot be opened */
export async function chooseAccelerator(settings: Settings, kernelPath: string, log: ThreadLog): Promise<Accelerator> {
  if (settings.accelerator === 'tcg') return 'tcg';
  const problem = deviceProblem();
  if (settings.accelerator === 'kvm') {
    if (!problem) return 'kvm';
    throw new KvmUnavailable(
      `Kvm error: Error creating KVM object: ${problem}\n` +
        "Make sure the user launching the firecracker process is configured on the /dev/kvm file's ACL.",
    );
  }
  if (problem) {
    log.info(`KVM is not usable (${problem}); emulating.`);
    return 'tcg';
  }
  const verdict = await cachedVerdict(settings, kernelPath, () => kvmBoots(settings, kernelPath));
  if (verdict === 'tcg') log.warn('KVM opens, but this kernel does not boot with it on this host; emulating.');
  return verdict;
}

function deviceProblem(): string | undefined {
  try {
    accessSync(KVM_DEVICE, constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return ioErrorText(error);
  }
}

/** One small file per host boot and kernel; those of earlier boots are removed. */
export async function cachedVerdict(
  settings: Pick<Settings, 'cacheDir'>,
  kernelPath: string,
  test: () => Promise<boolean>,
): Promise<Accelerator> {
  const { createHash } = await import('node:crypto');
  const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  const kernel = createHash('sha256').update(readFileSync(kernelPath)).digest('hex').slice(0, 32);
  const file = join(settings.cacheDir, `kvm-${boot}-${kernel}`);
  try {
    const cached = readFileSync(file, 'latin1').trim();
    if (cached === 'kvm' || cached === 'tcg') return cached;
  } catch {
    // not known yet
  }
  const verdict = (await test()) ? 'kvm' : 'tcg';
  try {
    mkdirSync(settings.cacheDir, { recursive: true, mode: 0o700 });
    for (const name of readdirSync(settings.cacheDir)) {
      if (name.startsWith('kvm-') && !name.startsWith(`kvm-${boot}-`)) rmSync(join(settings.cacheDir, name));
    }
    writeFileSync(file, `${verdict}\n`);
  } catch {
    // a cache that cannot be written costs time, not correctness
  }
  return verdict;
}

/** Boots the kernel under KVM and waits for its first line on the console. */
export async function kvmBoots(settings: Settings, kernelPath: string, timeoutMs = SMOKE_TEST_MS): Promise<boolean> {
  const args = [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-accel', 'kvm', '-cpu', 'host', '-m', '128M'],
    ...['-machine', 'microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off'],
    ...['-kernel', kernelPath, '-append', 'console=ttyS0 earlyprintk=ttyS0 panic=-1 reboot=t'],
    ...['-chardev', `socket,id=console,fd=${CONSOLE_FD}`, '-serial', 'chardev:console'],
    ...['-chardev', `socket,id=qmp,fd=${QMP_FD}`, '-mon', 'chardev=qmp,mode=control', '-no-reboot'],
  ];
  const qemu = await startQemu(settings.qemu, args, settings.env, () => {});
  const { promise: booted, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), timeoutMs);
  let seen = '';
  qemu.console.on('data', (bytes: Buffer) => {
    seen = (seen + bytes.toString('latin1')).slice(-4096);
    if (seen.includes('Linux version')) resolve(true);
  });
  // the greeting must be read or QEMU would stop writing
  qemu.qmp.resume();
  qemu.qmp.on('error', () => {});
  void qemu.ended.then(() => resolve(false));
  const verdict = await booted;
  clearTimeout(timer);
  qemu.kill();
  await qemu.ended;
  return verdict;
}
