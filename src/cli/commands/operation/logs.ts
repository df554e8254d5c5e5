/** `banger operation logs`: what a long action has said, and with --follow what it says until it ends. */
import type { OperationEvent } from '../../../api/operation.ts';
import { readJsonLines } from '../../../system/json-lines.ts';
import { defineCommand } from '../../command.ts';
import { plainText } from '../../output/plain-text.ts';

export default defineCommand({
  positionals: ['id'],
  options: { follow: { type: 'flag', short: 'f', help: 'go on until it ends, or Ctrl-C' } },
  completes: { id: ['operation'] },
  data: false,
  description: 'The last lines are kept, some thousands; none of an earlier daemon.',
  examples: ['operation logs 3f2a9c1e', 'operation logs 3f2a9c1e --follow'],
  async run(ctx, { args: { id }, options }) {
    if (options.follow) ctx.terminal.endWithReader?.();
    const stream = await ctx.api.stream('operationEvents', { params: { id }, query: { follow: options.follow } });
    for await (const value of readJsonLines(stream)) {
      const text = textOf(value as OperationEvent);
      if (text !== undefined) ctx.print(plainText(text));
    }
  },
});

function textOf(event: OperationEvent): string | undefined {
  switch (event.type) {
    case 'step':
      return `== ${event.label}`;
    case 'log':
      return event.line;
    case 'warning':
      return `warning: ${event.message}`;
    case 'done':
      return event.operation.error ? `== ${event.operation.state}: ${event.operation.error.message}` : undefined;
    default:
      return undefined;
  }
}
