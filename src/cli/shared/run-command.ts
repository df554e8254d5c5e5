/** `banger run` with a command: the VM, what is copied in, the command, what is copied out, and the end of a temporary VM. */
import { asBangerError, BangerError } from '../../errors.ts';
import type { OptionValues } from '../command-shape.ts';
import type { Context } from '../context.ts';
import { type BringUpOptions, bringUp, startText } from './bring-up.ts';
import { type EXEC_OPTIONS, execHere } from './exec-options.ts';
import { type HeldLease, holdLease } from './lease.ts';
import { type COPY_OPTIONS, type Copies, copyIn, copyOut, planCopies } from './run-copies.ts';

export type RunCommandOptions = BringUpOptions &
  OptionValues<typeof EXEC_OPTIONS> &
  OptionValues<typeof COPY_OPTIONS> & { rm: boolean; tty: boolean | undefined };

/**
 * Sets the exit status to that of the command; what fails after it is shown and counts only when the command succeeded.
 * @param name undefined for a temporary VM with a name of its own
 */
export async function runCommand(
  ctx: Context,
  name: string | undefined,
  command: string[],
  options: RunCommandOptions,
): Promise<void> {
  requireSense(name, command, options);
  const copies = await planCopies(ctx.terminal.cwd, options);
  // needed when the VM is there, and loaded while it starts
  void import('./exec-session.ts');
  if (!options.rm) return await runIn(ctx, name ?? '', command, options, copies);
  const lease = await holdLease(ctx);
  try {
    await runIn(ctx, name ?? lease.vmName, command, options, copies, lease);
  } catch (error) {
    ctx.fail(asBangerError(error));
  }
  await lease.end();
}

async function runIn(
  ctx: Context,
  name: string,
  command: string[],
  options: RunCommandOptions,
  copies: Copies,
  lease?: HeldLease,
): Promise<void> {
  const { vm, started, warm } = await bringUp(ctx, name, options, lease?.id);
  if (started) ctx.talk(`${name} is running at ${vm.address} (${startText(vm, warm)})`);
  await copyIn(ctx, name, copies);
  // a reader that leaves ends the command and with it what was to come back
  if (copies.outs.length === 0) ctx.terminal.endWithReader?.();
  ctx.status = await execHere(ctx, name, command, { ...options, cwd: copies.cwd });
  await copyOut(ctx, name, copies);
}

/** @throws BangerError `invalid_input` for what does not go together */
function requireSense(name: string | undefined, command: readonly string[], options: RunCommandOptions): void {
  const { rm, autostart, restart, overwrite, copyOut: outs } = options;
  if (command.length === 0) {
    throw new BangerError('invalid_input', 'There is no command to run.', {
      hint: `banger run ${rm ? '--rm' : name} -- COMMAND   for example: banger run --rm -- bash`,
    });
  }
  if (!rm && name === undefined) {
    throw new BangerError('invalid_input', 'There is no name of a VM to run the command in.', {
      hint: 'banger run NAME -- COMMAND   or in a VM of its own: banger run --rm -- COMMAND',
    });
  }
  const flag = autostart ? '--autostart' : restart === undefined ? undefined : '--restart';
  if (rm && flag !== undefined) {
    throw new BangerError('invalid_input', `${flag} is for VMs that stay; one of --rm is gone after its command.`, {
      hint: `Leave ${flag} out, or give the VM a name and leave --rm out.`,
    });
  }
  if (overwrite && outs.length === 0) {
    throw new BangerError('invalid_input', '--overwrite is about --copy-out, which was not given.', {
      hint: `banger run ${name ?? '--rm'} --copy-out PATH --overwrite -- COMMAND`,
    });
  }
}
