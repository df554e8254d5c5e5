/** `banger dns setup`: has this host's resolver ask banger for names of VMs, and for nothing else. */
import type { DnsSetupResult } from '../../../api/dns.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  options: {
    undo: { type: 'flag', help: 'take back what an earlier setup wrote' },
    dryRun: { type: 'flag', short: 'n', help: 'print what would change, and change nothing' },
    script: { type: 'flag', help: 'print the same as a shell script for root, and change nothing' },
  },
  description:
    'Every file and command is printed before it is written or run. It takes root, or a user whom `sudo -n` lets ' +
    'do everything. In the end a name only banger knows is looked up the way every program does it.',
  examples: ['dns setup --dry-run', 'dns setup', 'dns setup --undo', 'dns setup --script | sudo sh'],
  async run(ctx, { options }) {
    const plan = await ctx.api.call('planDns', { query: { undo: options.undo } });
    if (options.script) return plan.script;
    if (options.dryRun) return plan;
    ctx.say(plan.text.trimEnd());
    if (plan.steps.length === 0) return unchanged(plan.summary);
    const label = options.undo ? 'dns setup --undo' : 'dns setup';
    const operation = await perform(ctx, label, () => ctx.api.call('setUpDns', { body: { undo: options.undo } }));
    return operation.result as DnsSetupResult;
  },
  print(data) {
    if (typeof data === 'string') return data.trimEnd();
    if ('text' in data) return data.text.trimEnd();
    if (data.proof === null) return data.changed ? 'Done.' : '';
    const { name, address } = data.proof;
    const how = data.changed ? 'Done' : 'It was set up already';
    return `${how}: programs on this host find names of VMs. Proof: getaddrinfo("${name}") = ${address}, as banger says.`;
  },
});

function unchanged(summary: string): DnsSetupResult {
  return { summary, changed: false, proof: null };
}
