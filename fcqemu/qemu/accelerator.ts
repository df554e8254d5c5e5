/**
 * KVM or emulation. That /dev/kvm opens proves nothing (there are nested hosts where no ordinary guest ever
 * gets past early boot), so the kernel in question is booted for a moment, and what came of it is noted. That begins
 * when the kernel is configured: a start waits for none of it for long, because clients have limits.
 */
import { accessSync, constants } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { ioErrorText } from '../fault.ts';
import type { ThreadLog } from '../log.ts';
import type { Settings } from '../settings.ts';
import type { Accelerator } from './arguments.ts';
import { fileIdentity, KvmVerdicts, type Outcome } from './kvm-verdicts.ts';
import { CONSOLE_FD, QMP_FD, startQemu } from './process.ts';

/** Time the kernel has for its first line once QEMU has loaded it; with a working KVM it takes a tenth of it. */
const FIRST_TRIAL_MS = 3000;

/** Silence may be a busy host: the next process gives the kernel so many times more, up to the limit. */
const MORE_TIME = 4;
const LAST_TRIAL_MS = 48_000;

/** Time QEMU has to load the kernel, from a disk that may be cold and slow. */
const LOAD_MS = 60_000;

/** What a start waits for a trial that is under way. A client of Firecracker's expects an answer within half a second. */
const PATIENCE_MS = 300;

/** How often what another process tries is looked at. */
const LOOK_MS = 50;

const KVM_DEVICE = '/dev/kvm';

export class AcceleratorChoice {
  readonly #settings: Settings;
  readonly #log: ThreadLog;
  #look: { identity: string; outcome: Promise<Outcome> } | undefined;

  constructor(settings: Settings, log: ThreadLog) {
    this.#settings = settings;
    this.#log = log;
  }

  /** Begins to find out about a kernel that may be started soon. */
  prepare(kernelPath: string): void {
    if (this.#settings.accelerator !== 'auto' || deviceProblem()) return;
    // a start reports what is wrong
    this.#lookAt(kernelPath).catch(() => {});
  }

  /** @throws Error, in Firecracker's words, when KVM is demanded and cannot be had; the system error of a kernel that is gone */
  async choose(kernelPath: string): Promise<Accelerator> {
    const { accelerator } = this.#settings;
    if (accelerator === 'tcg') return 'tcg';
    const problem = deviceProblem();
    if (accelerator === 'kvm') {
      if (!problem) return 'kvm';
      throw new Error(
        `Kvm error: Error creating KVM object: ${problem}\n` +
          "Make sure the user launching the firecracker process is configured on the /dev/kvm file's ACL.",
      );
    }
    if (problem) {
      this.#log.info(`KVM is not usable (${problem}); emulating.`);
      return 'tcg';
    }
    const outcome = await Promise.race([this.#lookAt(kernelPath), delay(PATIENCE_MS)]);
    if (outcome === 'works') return 'kvm';
    this.#log.warn(
      outcome === undefined
        ? 'Whether this kernel boots under KVM on this host is still being tried out; emulating.'
        : 'KVM opens, but this kernel does not boot with it on this host; emulating.',
    );
    return 'tcg';
  }

  async #lookAt(kernelPath: string): Promise<Outcome> {
    const identity = fileIdentity(kernelPath);
    if (this.#look?.identity !== identity) this.#look = { identity, outcome: this.#findOut(kernelPath) };
    return await this.#look.outcome;
  }

  async #findOut(kernelPath: string): Promise<Outcome> {
    const verdicts = new KvmVerdicts(this.#settings.cacheDir);
    const kernel = await verdicts.nameOf(kernelPath);
    const known = verdicts.read(kernel);
    if (!known) return await this.#try(verdicts, kernel, kernelPath, FIRST_TRIAL_MS);
    if (known.outcome === 'silent' && known.timeMs < LAST_TRIAL_MS) {
      // it may do better when the host is less busy: those who start after this may know
      void this.#try(verdicts, kernel, kernelPath, known.timeMs * MORE_TIME).catch(() => {});
    }
    return known.outcome;
  }

  async #try(verdicts: KvmVerdicts, kernel: string, kernelPath: string, timeMs: number): Promise<Outcome> {
    for (let waitedMs = 0; waitedMs < LOAD_MS; waitedMs += LOOK_MS) {
      const release = verdicts.claim(kernel);
      if (release) {
        try {
          const outcome = await bootUnderKvm(this.#settings, kernelPath, timeMs);
          verdicts.write(kernel, { outcome, timeMs });
          return outcome;
        } finally {
          release();
        }
      }
      await delay(LOOK_MS, undefined, { ref: false });
      const found = verdicts.read(kernel);
      if (found && (found.outcome !== 'silent' || found.timeMs >= timeMs)) return found.outcome;
    }
    return 'silent';
  }
}

function deviceProblem(): string | undefined {
  try {
    accessSync(KVM_DEVICE, constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return ioErrorText(error);
  }
}

/** Boots the kernel under KVM and waits for its first line on the console. */
async function bootUnderKvm(settings: Settings, kernelPath: string, timeMs: number): Promise<Outcome> {
  const args = [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-accel', 'kvm', '-cpu', 'host', '-m', '128M'],
    ...['-machine', 'microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off'],
    ...['-kernel', kernelPath, '-append', 'console=ttyS0 earlyprintk=ttyS0 panic=-1 reboot=t'],
    ...['-chardev', `socket,id=console,fd=${CONSOLE_FD}`, '-serial', 'chardev:console'],
    ...['-chardev', `socket,id=qmp,fd=${QMP_FD}`, '-mon', 'chardev=qmp,mode=control', '-no-reboot'],
  ];
  const qemu = await startQemu(settings.qemu, args, settings.env, () => {});
  const { promise: end, resolve } = Promise.withResolvers<Outcome>();
  let timer = setTimeout(() => resolve('silent'), LOAD_MS);
  let seen = '';
  qemu.console.on('data', (bytes: Buffer) => {
    seen = (seen + bytes.toString('latin1')).slice(-4096);
    if (seen.includes('Linux version')) resolve('works');
  });
  // QEMU greets when the kernel is loaded and its CPU begins to run
  qemu.qmp.once('data', () => {
    clearTimeout(timer);
    timer = setTimeout(() => resolve('silent'), timeMs);
  });
  qemu.qmp.on('error', () => {});
  void qemu.ended.then(() => resolve('fails'));
  const outcome = await end;
  clearTimeout(timer);
  qemu.kill();
  await qemu.ended;
  return outcome;
}
