/** `banger ssh`: the system's ssh with what it needs to know about one VM. */
import { loadConfig } from '../../../config/load.ts';
import { defineCommand } from '../../command.ts';
import { withoutSeparator } from '../../shared/pass-through.ts';
import { namesUser, sshArguments } from '../../shared/ssh-options.ts';

export default defineCommand({
  positionals: ['name', '[words...]'],
  completes: { name: ['vm'] },
  passThrough: true,
  data: false,
  description:
    'Options and a command for ssh itself may follow the name. The exit status is that of ssh. The user is root unless\n' +
    "another one is named, as USER@NAME or by -l; banger's key opens root alone, others need keys of their own (-i).",
  examples: ['ssh web', 'ssh web uptime', 'ssh web -L 8080:localhost:80', 'ssh app@web -i ~/.ssh/id_ed25519'],
  async run(ctx, { args: { name: destination, words } }) {
    const [, user, name = destination] = /^(.*)@([^@]*)$/s.exec(destination) ?? [];
    const [access, { config }] = await Promise.all([
      ctx.api.call('sshAccess', { params: { name } }),
      loadConfig({ env: ctx.terminal.env, uid: ctx.terminal.uid }),
    ]);
    const given = withoutSeparator(words);
    // the first user ssh hears of counts, so ours is named when there is no other
    const named = user ?? (namesUser(given) ? undefined : access.user);
    ctx.status = await ctx.terminal.runInteractive([
      config.programs.ssh,
      ...sshArguments(access),
      named === undefined ? access.address : `${named}@${access.address}`,
      ...given,
    ]);
  },
});
