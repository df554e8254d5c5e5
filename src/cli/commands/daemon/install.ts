/** `banger daemon install`: a systemd unit, so that the daemon comes up with the host and VMs with it. */
import { mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BangerError, messageOf } from '../../../errors.ts';
import { pathExists, writeFileAtomic } from '../../../system/files.ts';
import { defineCommand } from '../../command.ts';
import type { Context } from '../../context.ts';
import { renderUnit } from '../../shared/systemd-unit.ts';

const UNIT = 'bangerd.service';

export default defineCommand({
  options: {
    user: { type: 'flag', help: 'for this user, with their own systemd' },
    undo: { type: 'flag', help: 'remove the unit' },
  },
  description: 'Writes one file and prints it. Nothing is enabled: the commands for that are printed too.',
  examples: ['daemon install', 'daemon install --user', 'daemon install --undo'],
  async run(ctx, { options }) {
    const user = options.user;
    const file = unitFile(ctx, user);
    const systemctl = user ? 'systemctl --user' : 'systemctl';
    if (options.undo) {
      const there = await pathExists(file);
      await change(file, user, () => rm(file, { force: true }));
      ctx.say(there ? `Removed ${file}` : `There is no ${file}`);
      if (there) ctx.talk(`Then: ${systemctl} disable bangerd; ${systemctl} daemon-reload`);
      return { file, installed: false };
    }
    const text = renderUnit(ctx.terminal.self, ctx.terminal.env, user);
    await change(file, user, async () => {
      await mkdir(dirname(file), { recursive: true });
      await writeFileAtomic(file, text, 0o644);
    });
    ctx.say(`Wrote ${file}:\n\n${text.trimEnd()}\n`);
    ctx.talk(`Then: ${systemctl} daemon-reload && ${systemctl} enable bangerd`);
    ctx.talk(`It takes over from the daemon that runs now with: banger daemon stop && ${systemctl} start bangerd`);
    if (user) ctx.talk('Without anybody logged in it runs only after: loginctl enable-linger');
    return { file, installed: true };
  },
});

function unitFile({ terminal }: Context, user: boolean): string {
  if (!user) return join('/etc/systemd/system', UNIT);
  const configHome = terminal.env.XDG_CONFIG_HOME || join(terminal.env.HOME ?? '/', '.config');
  return join(configHome, 'systemd/user', UNIT);
}

async function change(file: string, user: boolean, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    throw new BangerError('host_unprepared', `${file} cannot be written: ${messageOf(error)}`, {
      cause: error,
      hint: user
        ? `See who may write there: ls -ld ${dirname(file)}`
        : 'As root, or for yourself: banger daemon install --user',
    });
  }
}
