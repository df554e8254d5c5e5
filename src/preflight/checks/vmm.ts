/** The VMM and KVM: what would run a VM here, and why guests are emulated where they are. */
import { BangerError } from '../../errors.ts';
import {
  binaryVersion,
  limitsOf,
  NEWEST_KNOWN,
  OLDEST_KNOWN,
  standingOf,
  type VmmVersion,
} from '../../firecracker/versions.ts';
import { groupOfDevice, KVM_DEVICE } from '../../system/host-facts.ts';
import { FIRECRACKER_RELEASE } from '../../version.ts';
import { type Check, failed, notApplicable, ok, TRIAL_LIMIT_MS, warning } from '../check.ts';
import { hasBoot, type PreflightContext } from '../context.ts';
import { asRoot, installRepair } from '../fixes.ts';
import { chooseVmm, lookAtVmms, type VmmChoice } from '../vmm-choice.ts';

/** Oldest QEMU whose microvm machine has all that fcqemu asks for. */
const MIN_QEMU_MAJOR = 6;

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
      const better = context.thorough ? await whatFirecrackerBrings(context) : '';
      const detail = `VMs run on ${choice.kind}, ${how}.${version ? ` ${version.text}.` : ''} ${choice.reason}${better}`;
      return version?.fix ? warning(lookedFor, detail, version.fix) : ok(lookedFor, detail);
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
      return failed(lookedFor, verdict.detail, await whyAndHow(context, verdict.detail));
    }
    if (verdict.works) {
      const detail = `Guests run under KVM, but this user is not in the group that may open ${device}: sudo gives it to Firecracker.`;
      return warning(lookedFor, detail, joinKvmGroup(context.uid));
    }
    // what cannot be tested yet is not known to be slow
    if (!hasBoot(context)) return notApplicable(lookedFor, verdict.detail);
    const slow = 'VMs are emulated, about ten times slower.';
    return warning(lookedFor, `${verdict.detail} ${slow}`, await whyAndHow(context, verdict.detail));
  },
};

/** What a Firecracker that is missing would change, and how it comes here; empty where it is there or not wanted. */
async function whatFirecrackerBrings(context: PreflightContext): Promise<string> {
  const { firecracker, verdict } = await lookAtVmms(context);
  if (firecracker.found || context.config.vmm !== 'auto') return '';
  if (!verdict.works) return ' Firecracker would change nothing here: it needs KVM.';
  const file = `firecracker-v${FIRECRACKER_RELEASE}-${context.facts.arch}.tgz`;
  const url = `${context.config.releases.firecracker}/v${FIRECRACKER_RELEASE}/${file}`;
  return [
    ' Firecracker would start VMs sooner and with less memory for each; get it with: banger vmm install',
    `without a network here: curl -LO ${url} -LO ${url}.sha256.txt elsewhere, then banger vmm install --from ${file}.`,
  ].join('; ');
}

/** The command or setting that would make KVM work, as far as it can be told from here. */
async function whyAndHow(
  { uid, facts, kvmDevice: device = KVM_DEVICE }: PreflightContext,
  detail: string,
): Promise<string> {
  if (detail.includes('may not open')) return await openDevice(device, uid);
  if (detail.includes('by root alone')) return asRoot(`sh -c 'chgrp kvm ${device} && chmod 0660 ${device}'`, uid);
  if (detail.startsWith('There is no /dev/kvm')) {
    const modules = facts.arch === 'x86_64' ? 'kvm_intel (or kvm_amd)' : 'kvm';
    return `${asRoot(`modprobe ${modules.split(' ')[0]}`, uid)}; without such a module, turn on virtualization in the firmware, or nested virtualization on the host of this VM.`;
  }
  return 'Turn on nested virtualization on the host of this machine, or leave vmm = "auto".';
}

async function openDevice(device: string, uid: number): Promise<string> {
  if ((await groupOfDevice(device)) !== undefined) return joinKvmGroup(uid);
  return `${asRoot(`sh -c 'chgrp kvm ${device} && chmod 0660 ${device}'`, uid)}, then ${joinKvmGroup(uid)}`;
}

function joinKvmGroup(uid: number): string {
  return `${asRoot('usermod -aG kvm "$USER"', uid)}, then log in again`;
}

interface VersionFinding {
  /** e.g. `QEMU 7.2.22`, with what it cannot do; a sentence without its full stop */
  text: string;
  /** what to do about a version that nobody has tried */
  fix: string | undefined;
}

async function versionOf(context: PreflightContext, choice: VmmChoice): Promise<VersionFinding | undefined> {
  const program = choice.kind === 'fcqemu' ? choice.env.FCQEMU_QEMU : choice.program.at(-1);
  if (program === undefined) return undefined;
  if (choice.kind === 'fcqemu') return await versionOfQemu(context, program);
  const version = await binaryVersion(context.runner, program, context.env);
  return version && judgeFirecracker(version);
}

async function versionOfQemu({ runner, env }: PreflightContext, program: string): Promise<VersionFinding | undefined> {
  const { stdout } = await runner.run([program, '--version'], { env, timeoutMs: TRIAL_LIMIT_MS });
  const version = /(\d{1,9})\.(\d{1,9})(?:\.\d{1,9})?/.exec(stdout);
  if (!version) return undefined;
  const old = Number(version[1]) < MIN_QEMU_MAJOR;
  return { text: `QEMU ${version[0]}`, fix: old ? `Install a newer version: QEMU ${MIN_QEMU_MAJOR}.0.` : undefined };
}

/** What is to be known about running VMs on this version of Firecracker. */
function judgeFirecracker(version: VmmVersion): VersionFinding {
  const oldest = `${OLDEST_KNOWN.major}.${OLDEST_KNOWN.minor}`;
  const newest = `${NEWEST_KNOWN.major}.${NEWEST_KNOWN.minor}`;
  const limits = limitsOf(version);
  const text = [`Firecracker ${version.text}`, ...(limits.length > 0 ? [limits.join('; ')] : [])].join(': ');
  switch (standingOf(version)) {
    case 'known':
      return { text, fix: undefined };
    case 'newer':
      return { text: `${text}, newer than ${newest}, the newest that banger was tried with`, fix: undefined };
    case 'old':
      return {
        text: `${text}; it is older than ${oldest}, the oldest that banger was tried with, and may refuse to start VMs`,
        fix: 'banger vmm install, and the old one out of PATH',
      };
    case 'new-major':
      return {
        text: `${text}; banger knows no release after ${NEWEST_KNOWN.major}.x, and this one may refuse to start VMs`,
        fix: `Use Firecracker ${newest} (banger vmm install, and the other one out of PATH), or a newer banger.`,
      };
  }
}
