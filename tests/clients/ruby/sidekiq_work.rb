# The jobs of sidekiq_jobs.rb, and where their Redis is.
require "sidekiq"
require "sidekiq/api"

url = "redis://127.0.0.1:#{ENV.fetch("REDIS_PORT")}/0"
Sidekiq.configure_client { |config| config.redis = { url: url } }
Sidekiq.configure_server do |config|
  config.redis = { url: url }
  # By default a first look at the scheduled jobs comes after ten seconds.
  config.options[:poll_interval_average] = 0.5
end

# Counts how often it ran for +n+, so that a second run would show.
class CountedJob
  include Sidekiq::Worker

  def perform(key, n)
    Sidekiq.redis { |redis| redis.hincrby(key, n.to_s, 1) }
  end
end

# Fails each time, and is retried by Sidekiq.
class FailingJob
  include Sidekiq::Worker

  def perform
    raise "as it should"
  end
end
