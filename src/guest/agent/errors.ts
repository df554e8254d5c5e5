/** Why an agent did not do what it was asked. */

/**
 * `absent`: nobody listens in the guest · `silent`: no answer in time · `broken`: it does not keep to the protocol ·
 * `refused`: it says no, and why · `gone`: the connection ended
 */
export type AgentTrouble = 'absent' | 'silent' | 'broken' | 'refused' | 'gone';

export class AgentError extends Error {
  readonly trouble: AgentTrouble;

  constructor(trouble: AgentTrouble, message: string, cause?: unknown) {
    super(message, { cause });
    this.name = 'AgentError';
    this.trouble = trouble;
  }
}
