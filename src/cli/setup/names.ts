/** The parts of `banger setup` about names of VMs: the host's resolver, and ssh, which needs none. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Config } from '../../config/schema.ts';
import { asBangerError } from '../../errors.ts';
import { pathExists } from '../../system/files.ts';
import { perform } from '../shared/operations.ts';
import { clientConfig, configFiles, installClientConfig } from '../shared/ssh-client-config.ts';
import { withRights } from '../shared/with-rights.ts';
import { runOnTerminal } from './host.ts';
import { type Part, type SetupContext, settled, showFile } from './part.ts';

export async function resolverPart({ ctx, journal }: SetupContext, { dns }: Config): Promise<Part> {
  const title = `names below ${dns.zone}`;
  if (!dns.enabled) return settled(title, 'are switched off (dns.enabled = false)');
  const { resolver, host } = await ctx.api.call('dnsStatus', {});
  if (resolver.setUp) return settled(title, `are asked of banger by ${resolver.kind} already`);
  if (host.state !== 'listening') return settled(title, 'cannot be answered now; see banger dns status');
  const plan = await ctx.api.call('planDns', { query: { undo: false } }).catch(asBangerError);
  if (plan instanceof Error) return settled(title, `${plan.message} ${plan.hint ?? ''}`.trim());
  return {
    title,
    plan: plan.text.trimEnd().split('\n'),
    async apply() {
      await journal.add({ did: 'resolve' });
      if (ctx.terminal.uid !== 0) await runAsRoot(ctx, plan.script);
      // for root this does it; in any case it proves it
      await perform(ctx, 'dns setup', () => ctx.api.call('setUpDns', { body: { undo: false } }));
    },
  };
}

/** Runs a script of the daemon's with sudo, which may ask on this terminal. */
export async function runAsRoot(ctx: SetupContext['ctx'], script: string): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'banger-setup-'));
  try {
    const file = join(directory, 'script');
    await writeFile(file, script, { mode: 0o600 });
    await runOnTerminal(ctx, withRights(ctx.terminal, ['sh', file]));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** @param main the user's own ssh configuration, when it is not the usual one */
export async function sshPart({ ctx, runner, journal }: SetupContext, config: Config, main?: string): Promise<Part> {
  const { zone } = config.dns;
  const title = `ssh NAME.${zone}`;
  const known = await runner.run([config.programs.ssh, '-G', `banger-setup.${zone}`]).catch(asBangerError);
  if (known instanceof Error) return settled(title, `${known.message} ${known.hint ?? ''}`.trim());
  if (/^proxycommand .*\bssh-proxy\b/m.test(known.stdout)) return settled(title, 'works already');
  const files = configFiles(config, main);
  const text = clientConfig(config, ctx.terminal);
  return {
    title,
    plan: [...showFile(files.ours, text), `include it at the top of ${files.main}`],
    async apply() {
      const created = !(await pathExists(files.main));
      await journal.add({ did: 'include', main: files.main, created });
      await installClientConfig(files, text);
    },
  };
}
