/** `banger ssh-config`: lets the user's ssh, scp, rsync and editors reach VMs by name, with no resolver change. */
import { resolve } from 'node:path';
import { loadConfig } from '../../../config/load.ts';
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import {
  clientConfig,
  configFiles,
  installClientConfig,
  uninstallClientConfig,
} from '../../shared/ssh-client-config.ts';

export default defineCommand({
  options: {
    install: {
      type: 'flag',
      help: 'write the settings to a file of their own and include it in the ssh configuration',
    },
    uninstall: { type: 'flag', help: 'remove both again' },
    file: {
      type: 'text',
      placeholder: 'FILE',
      completes: ['file'],
      help: 'ssh configuration to change',
      default: '~/.ssh/config',
    },
  },
  description:
    'Without --install or --uninstall the settings are printed. With them in place, `ssh NAME.vm` works, and so ' +
    'does whatever uses ssh: scp, rsync, git, editors. All lines but the included one stay as they are.',
  examples: ['ssh-config', 'ssh-config --install', 'ssh-config --uninstall'],
  async run(ctx, { options }) {
    if (options.install && options.uninstall) {
      throw new BangerError('invalid_input', '--install and --uninstall exclude each other.');
    }
    const { config } = await loadConfig({ env: ctx.terminal.env, uid: ctx.terminal.uid });
    const text = clientConfig(config, ctx.terminal);
    const files = configFiles(config, options.file === undefined ? undefined : resolve(ctx.terminal.cwd, options.file));
    if (options.install) {
      await installClientConfig(files, text);
      return { ...files, text, state: 'installed' as const, zone: config.dns.zone };
    }
    if (options.uninstall) {
      const found = await uninstallClientConfig(files);
      return { ...files, text, state: found ? ('removed' as const) : ('absent' as const), zone: config.dns.zone };
    }
    return { ...files, text, state: 'printed' as const, zone: config.dns.zone };
  },
  print({ state, text, main, ours, zone }) {
    switch (state) {
      case 'printed':
        return text.trimEnd();
      case 'installed':
        return `${main} includes ${ours}.\nLog in with: ssh NAME.${zone}`;
      case 'removed':
        return `${main} includes ${ours} no more.`;
      case 'absent':
        return `Nothing to remove: ${main} does not include ${ours}.`;
    }
  },
});
