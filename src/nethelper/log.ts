/** What the helper says: one line each, for the journal of the host. */
import type { HelperRequest } from '../network/helper-protocol.ts';

export type HelperLog = (line: string) => void;

/** What was asked, in words that hold nothing a client could make up a line with. */
export function describeRequest(request: HelperRequest): string {
  switch (request.op) {
    case 'hello':
      return 'greeting';
    case 'attach':
    case 'detach':
    case 'set-up':
      return `${request.op} ${request.vm} (${scopeOf(request)})`;
    case 'rules':
      return `rules of ${request.rules.members.length} VMs (${scopeOf(request)})`;
    case 'state':
      return `state (${scopeOf(request)})`;
    case 'pool-route':
    case 'pool-rule':
      return `${request.op} ${request.wanted ? 'wanted' : 'unwanted'} (${scopeOf(request)})`;
    case 'forwarding':
      return `forwarding of ${request.device} ${request.value} (${scopeOf(request)})`;
  }
}

/** What changes nothing and comes often is not worth a line as long as it goes well. */
export function isQuiet({ op }: HelperRequest): boolean {
  return op === 'hello' || op === 'state';
}

function scopeOf({ instance, pool }: { instance: string; pool: string }): string {
  const text = instance === '' ? pool : `${pool}, ${instance}`;
  return text.replace(/[^\w./, -]/g, '?');
}
