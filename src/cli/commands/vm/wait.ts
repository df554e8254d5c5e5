/** `banger wait`: returns when a VM is as wanted, for scripts. */
import { defineCommand } from '../../command.ts';

export default defineCommand({
  positionals: ['name'],
  options: {
    for: {
      type: 'text',
      placeholder: 'what',
      completes: { words: ['ssh', 'ready', 'cloud-init', 'running', 'stopped', 'suspended', 'port='] },
      help: 'ssh, ready, cloud-init, running, stopped, suspended, or port=NUMBER',
      default: 'ssh',
    },
    timeout: { type: 'duration', short: 't', help: 'how long to wait', default: '60s' },
  },
  completes: { name: ['vm'] },
  description: 'Ends with status 7 when the time is over.',
  examples: ['wait web', 'wait web --for ready', 'wait web --for port=80 --timeout 2m', 'wait web --for stopped'],
  async run(ctx, { args: { name }, options }) {
    const query = {
      for: options.for,
      timeoutMs: options.timeout,
    };
    return await ctx.api.call('waitVm', { params: { name }, query });
  },
  print: (vm, _ctx, options) => `${vm.name}: ${options.for ?? 'ssh'}`,
});
