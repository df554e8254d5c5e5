/** This machine's programs, for tests that start real ones; nothing is asked of sudo. */
import type { HostSystem } from '../../src/control/host.ts';
import { NO_VM_USERS } from '../../src/core/vm-users.ts';
import { createPrivileged } from '../../src/system/privilege.ts';
import { createRunner } from '../../src/system/runner.ts';

/** @param uid user the daemon is said to run as */
export function hostSystem(env: NodeJS.ProcessEnv = process.env, uid = 0): HostSystem {
  const runner = createRunner(env);
  const privileged = createPrivileged(runner, { uid, sudo: 'never', sudoProgram: 'sudo' });
  return { runner, privileged, uid, vmUsers: NO_VM_USERS, cgroups: { directory: undefined, why: 'a test' }, env };
}
