/** The VMM and KVM: what would run a VM here, and why guests are emulated where they are. */
import { BangerError } from '../../errors.ts';
import { type Check, failed, notApplicable, ok, TRIAL_LIMIT_MS, warning } from '../check.ts';
import { hasBoot, type PreflightContext } from '../context.ts';
import { asRoot, installRepair } from '../fixes.ts';
import { chooseVmm, lookAtVmms, type VmmChoice } from '../vmm-choice.ts';

/** Oldest QEMU whose microvm machine has all that fcqemu asks for. */
const MIN_QEMU_MAJOR = 6;

/** Oldest Firecracker that answers every request banger sends. */
const MIN_FIRECRACKER = { major: 1, minor: 13 };

export const vmmCheck: Check<PreflightContext> = {
  id: 'vmm',
  title: 'VMM',
  async run(context) {
    const { firecracker, qemu } = context.config.programs;
    const lookedFor = `${firecracker}, ${qemu} and fcqemu`;
    try {
      const choice = await chooseVmm(context);
      const how = choice.acceleration === 'kvm' ? 'under KVM' : 'emulated';
      const version = context.thorough ? await versionOf(context, choice) : undefined;
      const detail = `VMs run on ${choice.kind}, ${how}.${version ? ` ${version.text}.` : ''} ${choice.reason}`;
      return version?.tooOld
        ? warning(lookedFor, detail, `Install a newer version: ${version.tooOld}.`)
        : ok(lookedFor, detail);
    } catch (error) {
      if (!(error instanceof BangerError)) throw error;
      const program = error.details?.program;
      const repair = typeof program === 'string' ? installRepair(context.facts.distribution, [program]) : undefined;
      return failed(lookedFor, error.message, error.hint ?? 'banger doctor', repair);
    }
  },
};

export const kvmCheck: Check<PreflightContext> = {
  id: 'vmm.kvm',
  title: 'KVM',
  async run(context) {
    const device = context.kvmDevice ?? '/dev/kvm';
    const lookedFor = `a guest that runs under ${device}`;
    const { verdict } = await lookAtVmms(context);
    if (verdict.works && verdict.userMayOpen) return ok(lookedFor, verdict.detail);
    if (context.config.vmm === 'firecracker' && !verdict.works) {
      return failed(lookedFor, verdict.detail, whyAndHow(context, verdict.detail));
    }
    if (verdict.works) {
      return warning(lookedFor, `Guests run under KVM, but only root may open ${device}.`, joinKvmGroup(context.uid));
    }
    // what cannot be tested yet is not known to be slow
    if (!hasBoot(context)) return notApplicable(lookedFor, verdict.detail);
    const slow = 'VMs are emulated, about ten times slower.';
    return warning(lookedFor, `${verdict.detail} ${slow}`, whyAndHow(context, verdict.detail));
  },
};

/** The command or setting that would make KVM work, as far as it can be told from here. */
function whyAndHow({ uid, facts }: PreflightContext, detail: string): string {
  if (detail.includes('may not open')) return joinKvmGroup(uid);
  if (detail.startsWith('There is no /dev/kvm')) {
    const modules = facts.arch === 'x86_64' ? 'kvm_intel (or kvm_amd)' : 'kvm';
    return `${asRoot(`modprobe ${modules.split(' ')[0]}`, uid)}; without such a module, turn on virtualization in the firmware, or nested virtualization on the host of this VM.`;
  }
  return 'Turn on nested virtualization on the host of this machine, or leave vmm = "auto".';
}

function joinKvmGroup(uid: number): string {
  return `${asRoot('usermod -aG kvm "$USER"', uid)}, then log in again`;
}

interface VmmVersion {
  /** e.g. `QEMU 7.2.22` */
  text: string;
  /** what is needed instead */
  tooOld: string | undefined;
}

async function versionOf({ runner, env }: PreflightContext, choice: VmmChoice): Promise<VmmVersion | undefined> {
  const isQemu = choice.kind === 'fcqemu';
  const program = isQemu ? choice.env.FCQEMU_QEMU : choice.program.at(-1);
  if (program === undefined) return undefined;
  const { stdout } = await runner.run([program, '--version'], { env, timeoutMs: TRIAL_LIMIT_MS });
  const version = /(\d+)\.(\d+)(?:\.\d+)?/.exec(stdout);
  if (!version) return undefined;
  const [text, major, minor] = version;
  if (isQemu) {
    return { text: `QEMU ${text}`, tooOld: Number(major) < MIN_QEMU_MAJOR ? `QEMU ${MIN_QEMU_MAJOR}.0` : undefined };
  }
  const { major: minMajor, minor: minMinor } = MIN_FIRECRACKER;
  const old = Number(major) < minMajor || (Number(major) === minMajor && Number(minor) < minMinor);
  return { text: `Firecracker ${text}`, tooOld: old ? `Firecracker ${minMajor}.${minMinor}` : undefined };
}
