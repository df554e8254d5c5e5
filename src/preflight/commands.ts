/** Which checks each command runs before it touches the host: only those it needs. */
import { assertPassed, type Check, type CheckResult, runChecks } from './check.ts';
import { bundleCheck, initrdCheck, kernelCheck, rootfsCheck } from './checks/boot-files.ts';
import { isolationChecks, usersCheck } from './checks/isolation.ts';
import { keysCheck } from './checks/keys.ts';
import { forwardDropCheck, forwardingCheck, nameDropCheck, uplinkCheck } from './checks/nat.ts';
import { poolCheck, rulesCheck, tapCheck } from './checks/network.ts';
import { privilegeCheck } from './checks/privilege.ts';
import {
  archiveCheck,
  buildCheck,
  copyCheck,
  imageReadCheck,
  pullCheck,
  sshCheck,
  unpackCheck,
  workDiskCheck,
} from './checks/programs.ts';
import { diskSpaceCheck, memoryCheck } from './checks/resources.ts';
import { templatesCheck } from './checks/templates.ts';
import { kvmCheck, vmmCheck } from './checks/vmm.ts';
import type { PreflightContext } from './context.ts';

export type PreflightCommand =
  | 'vm-create'
  | 'vm-start'
  | 'nat'
  | 'bundle-build'
  | 'image-build'
  | 'image-pull'
  | 'disk-resize'
  | 'ssh'
  | 'exec'
  | 'isolation'
  | 'warm';

const BOOT = [bundleCheck, kernelCheck, initrdCheck, rootfsCheck];

const COMMANDS: Record<PreflightCommand, { purpose: string; checks: Check<PreflightContext>[] }> = {
  'vm-create': { purpose: 'create a VM', checks: [bundleCheck, rootfsCheck, copyCheck, diskSpaceCheck] },
  'vm-start': {
    purpose: 'start a VM',
    checks: [
      vmmCheck,
      kvmCheck,
      ...BOOT,
      privilegeCheck,
      usersCheck,
      tapCheck,
      rulesCheck,
      poolCheck,
      workDiskCheck,
      diskSpaceCheck,
      memoryCheck,
      keysCheck,
    ],
  },
  nat: {
    purpose: 'let a VM reach the outside',
    checks: [uplinkCheck, forwardingCheck, forwardDropCheck, nameDropCheck],
  },
  'bundle-build': { purpose: 'build a bundle', checks: [buildCheck, unpackCheck, diskSpaceCheck] },
  'image-build': { purpose: 'build an image', checks: [copyCheck, archiveCheck, imageReadCheck] },
  'image-pull': { purpose: 'pull an OCI image', checks: [pullCheck] },
  'disk-resize': { purpose: 'resize a disk', checks: [workDiskCheck, diskSpaceCheck] },
  ssh: { purpose: 'log in to a VM', checks: [sshCheck, keysCheck] },
  exec: { purpose: 'run a command in a VM', checks: [keysCheck] },
  isolation: { purpose: 'keep VMs apart', checks: [...isolationChecks] },
  warm: { purpose: 'start VMs from templates', checks: [templatesCheck] },
};

/** The checks of a command, to be run by `runChecks`. */
export function preflightFor(command: PreflightCommand): readonly Check<PreflightContext>[] {
  return COMMANDS[command].checks;
}

/**
 * Runs the checks of one or more commands, each check once.
 * @throws BangerError `preflight_failed` with all that failed and the fix for each
 */
export async function preflight(
  context: PreflightContext,
  ...commands: [PreflightCommand, ...PreflightCommand[]]
): Promise<CheckResult[]> {
  const checks = new Set(commands.flatMap((command) => COMMANDS[command].checks));
  const results = await runChecks([...checks], context);
  assertPassed(results, COMMANDS[commands[0]].purpose);
  return results;
}

/** Every check there is, each once, in the order of the commands. */
export function allChecks(): Check<PreflightContext>[] {
  const commands = ['vm-start', 'vm-create', 'nat', 'ssh', 'image-build', 'bundle-build', 'isolation', 'warm'] as const;
  return [...new Set(commands.flatMap((command) => COMMANDS[command].checks))];
}
