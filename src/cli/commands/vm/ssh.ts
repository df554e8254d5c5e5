/** `banger ssh`: the system's ssh with what it needs to know about one VM. */
import { loadConfig } from '../../../config/load.ts';
import { defineCommand } from '../../command.ts';
import { withoutSeparator } from '../../shared/pass-through.ts';
import { sshArguments } from '../../shared/ssh-options.ts';

export default defineCommand({
  positionals: ['name', '[words...]'],
  completes: { name: ['vm'] },
  passThrough: true,
  data: false,
  description: 'Options and a command for ssh itself may follow the name. The exit status is that of ssh.',
  examples: ['ssh web', 'ssh web uptime', 'ssh web -L 8080:localhost:80'],
  async run(ctx, { args: { name, words } }) {
    const [access, { config }] = await Promise.all([
      ctx.api.call('sshAccess', { params: { name } }),
      loadConfig({ env: ctx.host.env, uid: ctx.host.uid }),
    ]);
    const destination = `${access.user}@${access.address}`;
    ctx.status = await ctx.host.runInteractive([
      config.programs.ssh,
      ...sshArguments(access),
      destination,
      ...withoutSeparator(words),
    ]);
  },
});
