/** `banger cp`: the system's scp between this machine and VMs. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig } from '../../../config/load.ts';
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import { sshConfig } from '../../shared/ssh-options.ts';

export default defineCommand({
  positionals: ['paths...'],
  options: {
    recursive: { type: 'flag', short: 'r', help: 'copy directories with all that is in them' },
    preserve: { type: 'flag', short: 'p', help: 'keep times and modes' },
  },
  completes: { paths: ['vm-path'] },
  data: false,
  description:
    'The last path is where to. A path in a VM is written NAME:PATH; relative ones begin at /root.\n' +
    'A local path with a colon in it is written with a slash before the colon, e.g. ./a:b.',
  examples: ['cp notes.txt web:', 'cp -r web:/var/log ./logs', 'cp web:dump.sql db:/tmp/'],
  async run(ctx, { args: { paths }, options }) {
    if (paths.length < 2) {
      throw new BangerError('invalid_input', 'There is no path to copy to.', { hint: 'banger cp notes.txt web:' });
    }
    const names = [...new Set(paths.map(vmOfPath).filter((name) => name !== undefined))];
    if (names.length === 0) {
      throw new BangerError('invalid_input', 'None of these paths is in a VM.', { hint: 'banger cp notes.txt web:' });
    }
    const [vms, { config }] = await Promise.all([
      Promise.all(names.map(async (name) => ({ name, access: await ctx.api.call('sshAccess', { params: { name } }) }))),
      loadConfig({ env: ctx.terminal.env, uid: ctx.terminal.uid }),
    ]);
    const directory = await mkdtemp(join(tmpdir(), 'banger-cp-'));
    try {
      const configFile = join(directory, 'ssh_config');
      await writeFile(configFile, sshConfig(vms), { mode: 0o600 });
      ctx.status = await ctx.terminal.runInteractive([
        config.programs.scp,
        '-F',
        configFile,
        '-3', // from VM to VM through this machine: they do not know each other's keys
        ...(options.recursive ? ['-r'] : []),
        ...(options.preserve ? ['-p'] : []),
        ...(ctx.quiet ? ['-q'] : []),
        '--',
        ...paths,
      ]);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
});

/** The VM a path is in, by scp's rule: what stands before a colon, when no slash comes first. */
export function vmOfPath(path: string): string | undefined {
  return /^([^/:]+):/.exec(path)?.[1];
}
