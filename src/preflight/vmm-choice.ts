/** Which VMM runs VMs here, and how fast: Firecracker under KVM where both work, fcqemu otherwise. */
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { CURRENT_VMM, installsDirectory, OWN_FIRECRACKER } from '../config/paths.ts';
import { NO_VM_USERS } from '../core/vm-users.ts';
import { BangerError } from '../errors.ts';
import { usersMayOpen } from '../system/confinement.ts';
import { pathExists } from '../system/files.ts';
import { type FoundProgram, findProgram } from '../system/host-facts.ts';
import type { Argv } from '../system/runner.ts';
import { hasBoot, type PreflightContext } from './context.ts';
import { installAdvice } from './fixes.ts';
import { type KvmVerdict, kvmVerdict, type TestVmm } from './self-test.ts';

export interface VmmChoice {
  kind: 'firecracker' | 'fcqemu';
  acceleration: 'kvm' | 'tcg';
  /** program and leading arguments, with sudo in front where this user may not open /dev/kvm */
  program: Argv;
  /** what the VMM needs in its environment besides the daemon's */
  env: NodeJS.ProcessEnv;
  /** a sentence */
  reason: string;
  /** whether sudo starts it */
  bySudo?: true;
  /** whether guests are emulated only because KVM has not shown yet that it works */
  undecided?: true;
}

export type ChoiceContext = Pick<
  PreflightContext,
  'boot' | 'config' | 'env' | 'facts' | 'fcqemu' | 'kvmDevice' | 'rights' | 'retestKvm' | 'runner' | 'uid' | 'vmUsers'
>;

/**
 * @throws BangerError `host_unprepared` when neither VMM can run, or not the one that is configured; the hint
 *   is the command that helps
 */
export async function chooseVmm(context: ChoiceContext): Promise<VmmChoice> {
  const wanted = context.config.vmm;
  const { firecracker, qemu, guard, verdict } = await lookAtVmms(context);
  if (wanted !== 'fcqemu' && firecracker.found && verdict.works) {
    return {
      kind: 'firecracker',
      acceleration: 'kvm',
      program: verdict.userMayOpen ? [firecracker.path] : await context.rights.kvm.argv([firecracker.path]),
      ...(verdict.userMayOpen || context.uid === 0 ? {} : { bySudo: true as const }),
      env: {},
      reason: `Firecracker is installed and KVM works. ${verdict.detail}`,
    };
  }
  if (wanted === 'firecracker') throw firecrackerMissing(context, firecracker, verdict);
  if (!qemu.found) throw programMissing(context, context.config.programs.qemu, qemu.why);
  if (!guard.found) throw programMissing(context, GUARD, guard.why);
  // QEMU is never run as root: where only root may open the device, guests are emulated
  const acceleration = verdict.works && verdict.userMayOpen ? 'kvm' : 'tcg';
  const why =
    wanted === 'fcqemu'
      ? 'vmm is "fcqemu".'
      : firecracker.found
        ? 'Firecracker is installed, but KVM does not work.'
        : 'Firecracker is not installed.';
  return {
    kind: 'fcqemu',
    acceleration,
    program: await fcqemuArgv(context),
    env: { FCQEMU_QEMU: qemu.path, FCQEMU_ACCEL: acceleration },
    reason: `${why} ${verdict.detail}`,
    ...(verdict.undecided ? { undecided: true as const } : {}),
  };
}

export interface VmmFindings {
  firecracker: FoundProgram;
  qemu: FoundProgram;
  /** what QEMU is started by */
  guard: FoundProgram;
  verdict: KvmVerdict;
}

/** Starts QEMU so that it ends with fcqemu, whatever ends that (util-linux). */
const GUARD = 'setpriv';

const findings = new WeakMap<ChoiceContext, Promise<VmmFindings>>();

/** What is installed and whether guests run under KVM; asked once per context, however many checks want it. */
export function lookAtVmms(context: ChoiceContext): Promise<VmmFindings> {
  const known = findings.get(context) ?? find(context);
  findings.set(context, known);
  return known;
}

async function find(context: ChoiceContext): Promise<VmmFindings> {
  const { config, env } = context;
  const [firecracker, qemu, guard] = await Promise.all([
    findFirecracker(context),
    findProgram(config.programs.qemu, env),
    findProgram(GUARD, env),
  ]);
  const vmm: TestVmm | undefined =
    config.vmm !== 'fcqemu' && firecracker.found
      ? { kind: 'firecracker', path: firecracker.path }
      : qemu.found && guard.found && config.vmm !== 'firecracker'
        ? { kind: 'qemu', path: qemu.path }
        : undefined;
  return { firecracker, qemu, guard, verdict: await testKvm(context, vmm) };
}

/** The one that settings or PATH name, else the one that banger installed. */
async function findFirecracker({ config, env }: ChoiceContext): Promise<FoundProgram> {
  const found = await findProgram(config.programs.firecracker, env);
  if (found.found || config.programs.firecracker !== OWN_FIRECRACKER) return found;
  const directory = installsDirectory(config.paths);
  // the release's own path: a verdict about one is none about the next
  const release = await realpath(join(directory, CURRENT_VMM)).catch(() => undefined);
  if (release === undefined) return { found: false, why: `${found.why} and in ${directory}` };
  const installed = await findProgram(join(release, OWN_FIRECRACKER), env);
  return installed.found ? installed : { found: false, why: `${found.why} and in ${release}` };
}

async function testKvm(context: ChoiceContext, vmm: TestVmm | undefined): Promise<KvmVerdict> {
  const untested = (detail: string): KvmVerdict => ({ works: false, userMayOpen: false, tested: false, detail });
  if (vmm === undefined) return untested('There is no VMM to test KVM with.');
  if (!hasBoot(context)) return untested('There is no bundle, so no kernel to test KVM with.');
  if (!(await pathExists(context.boot.kernel))) return untested('There is no kernel to test KVM with.');
  const device = context.kvmDevice ?? '/dev/kvm';
  if (context.vmUsers?.range && (await pathExists(device)) && !(await usersMayOpen(device))) {
    return untested(`${device} may be opened by root alone, and VMs run as users of their own.`);
  }
  return await kvmVerdict({
    runner: context.runner,
    privileged: context.rights.kvm,
    vmm,
    kernel: context.boot.kernel,
    cacheDirectory: context.config.paths.cache,
    confined: {
      users: context.vmUsers ?? NO_VM_USERS,
      store: context.config.paths.store,
      cp: context.config.programs.cp,
      env: context.env,
    },
    bootId: context.facts.bootId,
    kvmDevice: device,
    ...(context.retestKvm ? { retest: true } : {}),
  });
}

function firecrackerMissing({ config }: ChoiceContext, firecracker: FoundProgram, verdict: KvmVerdict): BangerError {
  if (firecracker.found) {
    return new BangerError('host_unprepared', `vmm is "firecracker", but KVM does not work here. ${verdict.detail}`, {
      hint: 'Set vmm = "auto" to run on QEMU where KVM does not work: BANGER_VMM=auto',
    });
  }
  return new BangerError(
    'host_unprepared',
    `vmm is "firecracker", but ${config.programs.firecracker} is not installed (looked ${firecracker.why}).`,
    { hint: 'Get it: banger vmm install   or run on QEMU instead: BANGER_VMM=auto' },
  );
}

function programMissing({ facts, uid }: ChoiceContext, program: string, why: string): BangerError {
  return new BangerError('host_unprepared', `${program} is not installed (looked ${why}).`, {
    hint: installAdvice(facts.distribution, [program], uid),
    details: { program },
  });
}

/** @throws BangerError `host_unprepared` when the configured stand-in, or the one beside banger, is missing */
async function fcqemuArgv({ config, env, fcqemu }: ChoiceContext): Promise<Argv> {
  const argv: Argv = config.programs.fcqemu === 'auto' ? fcqemu : [config.programs.fcqemu];
  const found = await findProgram(argv[0], env);
  if (found.found) return [found.path, ...argv.slice(1)];
  throw new BangerError('host_unprepared', `fcqemu is not installed (looked for ${argv[0]} ${found.why}).`, {
    hint: 'Install it beside banger again, or set programs.fcqemu to where it is.',
  });
}
